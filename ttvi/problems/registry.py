"""Named problems: "ginzburg-landau-32", "lotka-volterra", …"""

from __future__ import annotations

import re
from collections.abc import Callable

from . import chains, mixtures, posteriors
from .problem import Problem

__all__ = ["get", "names"]

_FAMILIES: dict[str, tuple[Callable[[int], Problem], tuple[int, ...]]] = {
    "ginzburg-landau": (chains.ginzburg_landau, (8, 16, 32, 64, 128)),
    "double-well-chain": (chains.double_well_chain, (8, 64, 128, 256)),
    "free-ends-chain": (chains.free_ends_chain, (50,)),
    "ising-fields": (chains.ising_fields, (64,)),
    "xy-ring": (chains.xy_ring, (16, 64)),
    "two-modes": (mixtures.two_modes, (8,)),
    "shells": (mixtures.shells, (2, 10, 20)),
    "many-well": (mixtures.many_well, (32, 64)),
    "funnel": (mixtures.funnel, (10,)),
    "stretched-funnel": (mixtures.stretched_funnel, (10,)),
}
"""Families with a size: builder and the sizes listed by `names` (`get` takes any)."""

_SINGLES: dict[str, Callable[[], Problem]] = {
    "two-modes-8-sigma-0.5": lambda: mixtures.two_modes(8, 0.5),
    "two-modes-8-sigma-0.25": lambda: mixtures.two_modes(8, 0.25),
    "egg-box": mixtures.egg_box,
    "lotka-volterra": posteriors.lotka_volterra,
}


def names() -> list[str]:
    """Names of the listed problems, sorted; a family takes other sizes too ("ginzburg-landau-24").

    >>> "ginzburg-landau-32" in names()
    True
    """
    sized = [f"{family}-{size}" for family, (_, sizes) in _FAMILIES.items() for size in sizes]
    return sorted(sized + list(_SINGLES), key=_natural)


def get(name: str) -> Problem:
    """The problem of that name.

    Args:
        name: one of `names`, or a family's name with any size of at least two: "xy-ring-12".

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
    raise ValueError(f"get: expected the name of a problem; got {name!r}. Choose one of: {', '.join(names())}.")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts "shells-2" before "shells-10"."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
