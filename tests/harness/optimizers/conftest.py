"""The kernels of the updates round in the interpreter as a GPU does."""

from tests.harness.ops.conftest import rounded_interpretation

__all__ = ["rounded_interpretation"]
