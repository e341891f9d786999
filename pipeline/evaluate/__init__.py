"""Stage 4: zero-shot evaluation, the paper's ablations, and the report."""
