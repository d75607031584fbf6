"""Constraints that torch does not have, and every constraint as something that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

__all__ = [
    "bounds",
    "categorical",
    "check_bounds",
    "circular",
    "constraint_at",
    "constraint_from_spec",
    "constraint_spec",
]


class circular(Constraint):
    """Points of a circle, by a representative in [lower, upper]; both ends are the same point.

    Args:
        lower: where a turn begins.
        upper: where it ends; ``upper - lower`` is the period.

    Raises:
        ValueError: the bounds are not finite, or out of order.

    >>> circular()
    circular(lower=-3.14159, upper=3.14159)
    >>> circular(0, 360).check(torch.tensor([0.0, 359.0, 400.0]))
    tensor([ True,  True, False])
    """

    def __init__(self, lower: float = -math.pi, upper: float = math.pi) -> None:
        self.lower_bound, self.upper_bound = float(lower), float(upper)
        check_bounds(self.lower_bound, self.upper_bound, "lower, upper", "circular")

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is a representative."""
        return (value >= self.lower_bound) & (value <= self.upper_bound)

    def __repr__(self) -> str:
        return f"circular(lower={self.lower_bound:g}, upper={self.upper_bound:g})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, circular) and bounds(self) == bounds(other)

    def __hash__(self) -> int:
        return hash(bounds(self))


class categorical(Constraint):
    """One of ``k`` unordered values 0, …, k - 1; they travel as floating-point integers.

    Args:
        k: number of values, at least one.

    Raises:
        ValueError: ``k`` is not a positive integer.

    >>> categorical(3).check(torch.tensor([0.0, 2.0, 3.0, 0.5]))
    tensor([ True,  True, False, False])
    """

    is_discrete = True

    def __init__(self, k: int) -> None:
        if int(k) != k or k < 1:
            raise ValueError(f"categorical: expected at least one category; got {k}. Pass the number of categories.")
        self.k = int(k)

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is an integer from 0 to k - 1."""
        return (value % 1 == 0) & (value >= 0) & (value < self.k)

    def __repr__(self) -> str:
        return f"categorical({self.k})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, categorical) and self.k == other.k

    def __hash__(self) -> int:
        return hash(("categorical", self.k))


def bounds(constraint: Any) -> tuple[Any, Any]:
    """Lower and upper bound, numbers or tensors."""
    return constraint.lower_bound, constraint.upper_bound


def check_bounds(lower: float, upper: float, name: str, caller: str) -> None:
    """Raise unless ``lower < upper``, both finite."""
    if not (math.isfinite(lower) and math.isfinite(upper)):
        remedy = "Use ttvi.real, or ttvi.positive, for an unbounded coordinate"
    elif lower >= upper:
        remedy = "Swap the bounds"
    else:
        return
    raise ValueError(
        f"{caller}: expected finite bounds lower < upper for `{name}`; got ({lower:g}, {upper:g}). {remedy}."
    )


_WORDS: dict[str, Any] = {
    "real": constraints.real,
    "boolean": constraints.boolean,
    "simplex": constraints.simplex,
    "corr_cholesky": constraints.corr_cholesky,
}
_FAMILIES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "greater_than": (constraints.greater_than, ("lower_bound",)),
    "greater_than_eq": (constraints.greater_than_eq, ("lower_bound",)),
    "less_than": (constraints.less_than, ("upper_bound",)),
    "interval": (constraints.interval, ("lower_bound", "upper_bound")),
    "half_open_interval": (constraints.half_open_interval, ("lower_bound", "upper_bound")),
    "integer_interval": (constraints.integer_interval, ("lower_bound", "upper_bound")),
    "circular": (circular, ("lower_bound", "upper_bound")),
    "categorical": (categorical, ("k",)),
}


def constraint_spec(constraint: Constraint) -> dict[str, Any]:
    """What JSON can hold of a constraint."""
    for word, one in _WORDS.items():
        if type(constraint) is type(one):
            return {"kind": word}
    for word, (family, fields) in _FAMILIES.items():
        if type(constraint) is family:
            values = [getattr(constraint, field) for field in fields]
            return {"kind": word, "values": [v.tolist() if isinstance(v, Tensor) else v for v in values]}
    raise TypeError(f"save: expected a constraint that ttvi names; got {constraint}. Map the coordinate to the line.")


def constraint_from_spec(spec: Mapping[str, Any]) -> Constraint:
    """The constraint that :func:`constraint_spec` described."""
    if spec["kind"] in _WORDS:
        return _WORDS[spec["kind"]]
    values = [torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for v in spec["values"]]
    return _FAMILIES[spec["kind"]][0](*values)


def constraint_at(constraint: Constraint, position: int) -> Constraint:
    """The constraint of one entry, where the bounds may be tensors with a bound per entry."""
    for family, fields in _FAMILIES.values():
        if type(constraint) is family:
            values = [torch.as_tensor(getattr(constraint, field)).reshape(-1) for field in fields]
            if any(len(v) > 1 for v in values):
                return family(*(v[position if len(v) > 1 else 0].item() for v in values))
    return constraint
