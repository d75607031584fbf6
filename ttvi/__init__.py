"""Tensor-network-first variational inference."""

from . import tt

__all__ = ["__version__", "tt"]
__version__ = "0.1.0"
