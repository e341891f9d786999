"""Predictions of other models, scored by the protocol of our own."""
