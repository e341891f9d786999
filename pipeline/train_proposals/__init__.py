"""Stage 1: scenes with labels in, the weights of a proposal net out."""
