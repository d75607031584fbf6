"""Named target densities with known answers, for examples, tests and benchmarks."""

from .chains import double_well_chain, free_ends_chain, ginzburg_landau, ising_fields, xy_ring
from .mixtures import egg_box, funnel, many_well, shells, stretched_funnel, two_modes
from .posteriors import lotka_volterra
from .problem import Problem
from .registry import get, names

__all__ = [
    "Problem",
    "double_well_chain",
    "egg_box",
    "free_ends_chain",
    "funnel",
    "get",
    "ginzburg_landau",
    "ising_fields",
    "lotka_volterra",
    "many_well",
    "names",
    "shells",
    "stretched_funnel",
    "two_modes",
    "xy_ring",
]
