"""The audit of pairs: which of them a person looks at, what was found, and how sure the precision is."""
