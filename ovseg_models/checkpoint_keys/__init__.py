"""Key maps between the layouts of published checkpoints and ours: pure functions on named tensors."""
