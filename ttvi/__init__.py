"""Tensor-train variational inference: normalise, sample, marginalise and condition a log-density."""

from . import diagnostics, flow, plots, problems, tt
from .inference import fit
from .posterior import Posterior, load
from .supports import categorical, circular, interval, positive, real, unit_interval
from .target import Target

__all__ = [
    "Posterior",
    "Target",
    "__version__",
    "categorical",
    "circular",
    "diagnostics",
    "fit",
    "flow",
    "interval",
    "load",
    "plots",
    "positive",
    "problems",
    "real",
    "tt",
    "unit_interval",
]
__version__ = "0.1.0"
