"""The page of ``ovseg pairs audit``: one pair after the other, a key for each verdict."""
