"""The training loop that stages 1 and 3 share: data order, exact resume, precision, several processes, metrics."""
