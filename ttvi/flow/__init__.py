"""Flows: transforms that start as the identity, on any base."""

from .autoregressive import InverseAutoregressive, MaskedAutoregressive
from .coupling import AdditiveCoupling, AffineCoupling, Coupling
from .defaults import default_transforms
from .flow import Flow
from .linear import DiagonalAffine, LULinear, Permutation
from .report import FlowInfo, FlowRecord
from .residual import Residual
from .spline import SplineCoupling
from .train import fit, fit_samples
from .transform import Compose, Transform, from_spec

__all__ = [
    "AdditiveCoupling",
    "AffineCoupling",
    "Compose",
    "Coupling",
    "DiagonalAffine",
    "Flow",
    "FlowInfo",
    "FlowRecord",
    "InverseAutoregressive",
    "LULinear",
    "MaskedAutoregressive",
    "Permutation",
    "Residual",
    "SplineCoupling",
    "Transform",
    "default_transforms",
    "fit",
    "fit_samples",
    "from_spec",
]
