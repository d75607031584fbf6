"""Tensor trains: the value object, its algebra, cross approximation, densities and functions."""

from .algebra import (
    add,
    evaluate,
    evaluate_indices,
    hadamard,
    inner,
    left_interfaces,
    norm,
    right_interfaces,
    scale,
    to_dense,
)
from .basis import Basis, Categorical, Fourier, Hermite, Legendre, Piecewise, from_spec
from .canonical import from_dense, orthogonalize, truncate
from .contraction import contract
from .cross import CrossOptions
from .density import TTDensity
from .function import TTFunction
from .likelihood import LikelihoodInfo, LikelihoodRecord, SampleOptions
from .pivots import maxvol
from .regression import RegressionInfo
from .report import CrossInfo, SweepRecord
from .train import TensorTrain

__all__ = [
    "Basis",
    "Categorical",
    "CrossInfo",
    "CrossOptions",
    "Fourier",
    "Hermite",
    "Legendre",
    "LikelihoodInfo",
    "LikelihoodRecord",
    "Piecewise",
    "RegressionInfo",
    "SampleOptions",
    "SweepRecord",
    "TTDensity",
    "TTFunction",
    "TensorTrain",
    "add",
    "contract",
    "evaluate",
    "evaluate_indices",
    "from_dense",
    "from_spec",
    "hadamard",
    "inner",
    "left_interfaces",
    "maxvol",
    "norm",
    "orthogonalize",
    "right_interfaces",
    "scale",
    "to_dense",
    "truncate",
]
