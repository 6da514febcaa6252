"""What a resume reads: checkpoints, and the state of a run as tensors and plain values."""
