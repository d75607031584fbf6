"""Tensor-train variational inference: normalise, sample, marginalise and condition a log-density."""

from . import diagnostics, plots, problems, tt

__all__ = ["__version__", "diagnostics", "plots", "problems", "tt"]
__version__ = "0.1.0"
