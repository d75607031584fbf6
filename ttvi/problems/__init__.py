"""Named target densities with known answers, for examples, tests and benchmarks."""

from .bayesian import brownian, eight_schools, eight_schools_centred, garch, ionosphere
from .chains import (
    antiferromagnetic_chain,
    double_well_chain,
    free_ends_chain,
    ginzburg_landau,
    ising_fields,
    spin_glass_chain,
    xy_ring,
)
from .gaussians import five_modes, gmm40, rotated_mixture, two_modes
from .lattices import boundary_lattice, ginzburg_landau_2d, phi4, xy_lattice
from .mixed import coal_mining, half_cauchy_simplex, von_mises_mixture
from .mixtures import egg_box, funnel, many_well, shells, stretched_funnel
from .posteriors import lotka_volterra, lotka_volterra_natural
from .problem import Modes, Moments, Problem
from .registry import get, names
from .rosenbrock import double_rosenbrock, rosenbrock, rosenbrock_chain, rosenbrock_pairs

__all__ = [
    "Modes",
    "Moments",
    "Problem",
    "antiferromagnetic_chain",
    "boundary_lattice",
    "brownian",
    "coal_mining",
    "double_rosenbrock",
    "double_well_chain",
    "egg_box",
    "eight_schools",
    "eight_schools_centred",
    "five_modes",
    "free_ends_chain",
    "funnel",
    "garch",
    "get",
    "ginzburg_landau",
    "ginzburg_landau_2d",
    "gmm40",
    "half_cauchy_simplex",
    "ionosphere",
    "ising_fields",
    "lotka_volterra",
    "lotka_volterra_natural",
    "many_well",
    "names",
    "phi4",
    "rosenbrock",
    "rosenbrock_chain",
    "rosenbrock_pairs",
    "rotated_mixture",
    "shells",
    "spin_glass_chain",
    "stretched_funnel",
    "two_modes",
    "von_mises_mixture",
    "xy_lattice",
    "xy_ring",
]
