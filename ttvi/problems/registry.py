"""Named problems: "ginzburg-landau-32", "lotka-volterra", …"""

from __future__ import annotations

import re
from collections.abc import Callable

from . import bayesian, chains, gaussians, lattices, mixed, mixtures, posteriors, rosenbrock
from .problem import Problem

__all__ = ["get", "names"]

_FAMILIES: dict[str, tuple[Callable[[int], Problem], tuple[int, ...]]] = {
    "antiferromagnetic-chain": (chains.antiferromagnetic_chain, (25,)),
    "double-rosenbrock": (rosenbrock.double_rosenbrock, (11,)),
    "double-well-chain": (chains.double_well_chain, (8, 64, 128, 256)),
    "five-modes": (gaussians.five_modes, (30,)),
    "free-ends-chain": (chains.free_ends_chain, (50,)),
    "funnel": (mixtures.funnel, (10,)),
    "ginzburg-landau": (chains.ginzburg_landau, (8, 16, 32, 64, 128, 256)),
    "ginzburg-landau-2d": (lattices.ginzburg_landau_2d, (4, 6, 8)),
    "ising-fields": (chains.ising_fields, (64,)),
    "many-well": (mixtures.many_well, (32, 64)),
    "positive-chain": (chains.positive_chain, (16,)),
    "rosenbrock": (rosenbrock.rosenbrock, (11,)),
    "rosenbrock-chain": (rosenbrock.rosenbrock_chain, (10,)),
    "rosenbrock-pairs": (rosenbrock.rosenbrock_pairs, (20,)),
    "shells": (mixtures.shells, (2, 10, 20)),
    "spin-glass-chain": (chains.spin_glass_chain, (35,)),
    "stretched-funnel": (mixtures.stretched_funnel, (10,)),
    "two-modes": (gaussians.two_modes, (8,)),
    "xy-lattice": (lattices.xy_lattice, (4, 6)),
    "xy-ring": (chains.xy_ring, (16, 64)),
}
"""Families with a size: builder and the sizes listed by `names` (`get` takes any)."""

_VARIANTS: dict[str, tuple[Callable[[int, float], Problem], tuple[tuple[int, str], ...]]] = {
    "boundary-lattice-{}-temperature-{}": (lattices.boundary_lattice, ((8, "5"), (8, "1"))),
    "free-ends-chain-{}-temperature-{}": (chains.free_ends_chain, ((50, "16"),)),
    "phi4-{}-lambda-{}": (lattices.phi4, ((6, "6.975"), (6, "8"), (8, "6.008"), (8, "8"))),
    "two-modes-{}-sigma-{}": (gaussians.two_modes, ((8, "0.5"), (8, "0.25"))),
}
"""Families with a size and a parameter: builder and what `names` lists of them."""

_SINGLES: dict[str, Callable[[], Problem]] = {
    "brownian": bayesian.brownian,
    "coal-mining": mixed.coal_mining,
    "egg-box": mixtures.egg_box,
    "eight-schools": bayesian.eight_schools,
    "eight-schools-centred": bayesian.eight_schools_centred,
    "garch": bayesian.garch,
    "gmm40": gaussians.gmm40,
    "half-cauchy-simplex": mixed.half_cauchy_simplex,
    "ionosphere": bayesian.ionosphere,
    "lotka-volterra": posteriors.lotka_volterra,
    "lotka-volterra-natural": posteriors.lotka_volterra_natural,
    "rotated-mixture-10": gaussians.rotated_mixture,
    "von-mises-mixture": mixed.von_mises_mixture,
}


def names() -> list[str]:
    """Names of the listed problems, sorted; a family takes other sizes too ("ginzburg-landau-24").

    >>> "ginzburg-landau-32" in names()
    True
    """
    sized = [f"{family}-{size}" for family, (_, sizes) in _FAMILIES.items() for size in sizes]
    varied = [pattern.format(*variant) for pattern, (_, variants) in _VARIANTS.items() for variant in variants]
    return sorted(sized + varied + list(_SINGLES), key=_natural)


def get(name: str) -> Problem:
    """The problem of that name.

    Args:
        name: one of `names`, or a family's name with any size of at least two and any parameter: "xy-ring-12",
            "phi4-4-lambda-7.5".

    Raises:
        ValueError: if there is no such problem.

    >>> get("ginzburg-landau-32").dim
    32
    """
    if name in _SINGLES:
        return _SINGLES[name]()
    family, _, size = name.rpartition("-")
    if family in _FAMILIES and size.isdecimal() and int(size) >= 2:
        return _FAMILIES[family][0](int(size))
    for pattern, (build, _) in _VARIANTS.items():
        match = re.fullmatch(pattern.replace("{}", r"(\d+)", 1).replace("{}", r"(\d+(?:\.\d+)?)"), name)
        if match and int(match[1]) >= 2 and float(match[2]) > 0:
            return build(int(match[1]), float(match[2]))
    raise ValueError(f"get: expected the name of a problem; got {name!r}. Choose one of: {', '.join(names())}.")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts "shells-2" before "shells-10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
