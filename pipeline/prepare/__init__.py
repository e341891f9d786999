"""Data preparation: official layouts, and anybody's own pictures, become scenes."""
