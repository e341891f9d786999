"""Masks of others as proposals: read from their files, checked, sifted by rules; and ours written for others."""
