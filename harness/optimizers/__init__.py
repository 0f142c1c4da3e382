"""The optimizers of the closed division, over many tensors at a time."""

from harness.optimizers.lamb import LAMB
from harness.optimizers.lars import LARS

__all__ = ["LAMB", "LARS"]
