"""Adapters in few bits: codes and scales in the file, the tensors themselves in the model."""
