"""Orthonormal one-dimensional bases."""

from .base import Basis, SquareIntegral
from .categorical import Categorical
from .fourier import Fourier
from .hermite import Hermite
from .legendre import Legendre
from .piecewise import Piecewise
from .spec import from_spec

__all__ = ["Basis", "Categorical", "Fourier", "Hermite", "Legendre", "Piecewise", "SquareIntegral", "from_spec"]
