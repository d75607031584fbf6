"""Working coordinates: the kinds there are, and the maps between them and the coordinates of the user."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from .constraints import bounds, categorical, check_bounds, circular

__all__ = ["Circle", "Finite", "Interval", "Joint", "Kind", "Line", "Piece", "Scalars", "make_piece"]


@dataclass(frozen=True)
class Line:
    """A working coordinate on the real line.

    Attributes:
        logarithmic: whether it is the logarithm of a distance to a bound.
    """

    logarithmic: bool = False


@dataclass(frozen=True)
class Interval:
    """A working coordinate on [lower, upper]."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Circle:
    """A working coordinate on the circle [lower, upper)."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Finite:
    """A working coordinate that is the index into ``values``."""

    values: tuple[float, ...]


Kind = Line | Interval | Circle | Finite
"""What a working coordinate can be."""


class Scalars:
    """A run of scalar coordinates, treated in one vectorised step.

    One row per coordinate: kind code, origin, sign, lower, upper; x = y (+ origin for finite sets), or
    x = origin + sign·exp(y) on half-lines.
    """

    LINE, HALF_OPEN, HALF_CLOSED, INTERVAL, CIRCLE, FINITE = range(6)

    def __init__(self, rows: list[tuple[int, float, float, float, float]]) -> None:
        self.rows = rows
        self._table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
        codes = self._table[:, 0]
        self._codes = codes
        self._cast: dict[tuple[torch.dtype, torch.device], dict[str, Tensor]] = {}
        self._some = {code: bool((codes == code).any()) for code in range(6)}
        self._some_half = self._some[self.HALF_OPEN] or self._some[self.HALF_CLOSED]
        self.x_size = self.y_size = len(rows)

    @classmethod
    def joined(cls, runs: Iterable[Scalars]) -> Scalars:
        """Several runs as one."""
        return cls([row for run in runs for row in run.rows])

    def _columns(self, like: Tensor) -> dict[str, Tensor]:
        key = (like.dtype, like.device)
        if key not in self._cast:
            columns = self._table.to(like.device, like.dtype).unbind(1)
            code = self._codes.to(like.device)
            masks = {
                "half": (code == self.HALF_OPEN) | (code == self.HALF_CLOSED),
                "open": code == self.HALF_OPEN,
                "circle": code == self.CIRCLE,
                "finite": code == self.FINITE,
            }
            self._cast[key] = masks | dict(zip(("origin", "sign", "lower", "upper"), columns[1:]))
        return self._cast[key]

    def to_x(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        if not (self._some_half or self._some[self.FINITE]):
            return y, None
        c = self._columns(y)
        x = y + c["origin"] * c["finite"]
        if not self._some_half:
            return x, None
        exponent = torch.where(c["half"], y, 0.0)  # so that no overflow elsewhere turns a gradient into NaN
        limit = 0.99 * math.log(torch.finfo(y.dtype).max)  # a half-line is open: no point may round to its end
        exponent = exponent.clamp(-limit, limit)
        return torch.where(c["half"], c["origin"] + c["sign"] * exponent.exp(), x), exponent.sum(-1)

    def to_y(self, x: Tensor) -> Tensor:
        if not (self._some_half or self._some[self.FINITE] or self._some[self.CIRCLE]):
            return x
        c = self._columns(x)
        y = self.wrap(x) - c["origin"] * c["finite"]
        if self._some_half:
            distance = torch.where(c["half"], c["sign"] * (x - c["origin"]), 1.0)
            y = torch.where(c["half"], distance.log(), y)
        return y

    def wrap(self, x: Tensor) -> Tensor:
        if not self._some[self.CIRCLE]:
            return x
        c = self._columns(x)
        period = torch.where(c["circle"], c["upper"] - c["lower"], 1.0)
        turned = c["lower"] + torch.remainder(x - c["lower"], period)
        turned = torch.where(turned < c["upper"], turned, c["lower"])  # a tiny negative angle rounds up to upper
        already = (x >= c["lower"]) & (x < c["upper"])  # keep its bits
        return torch.where(c["circle"] & ~already, turned, x)

    def contains(self, x: Tensor) -> Tensor:
        c = self._columns(x)
        inside = (x >= c["lower"]) & (x <= c["upper"])
        if self._some[self.HALF_OPEN]:
            inside &= (x != c["origin"]) | ~c["open"]
        if self._some[self.FINITE]:
            inside &= (x % 1 == 0) | ~c["finite"]
        return inside.all(-1)


class Joint:
    """A block of coordinates that one bijection of torch handles together."""

    def __init__(self, constraint: Constraint, shape: tuple[int, ...]) -> None:
        self._constraint, self._shape = constraint, shape
        self._transform = biject_to(constraint)
        self._y_shape = tuple(self._transform.inverse_shape(shape))
        self.x_size, self.y_size = math.prod(shape), math.prod(self._y_shape)

    def to_x(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        inner = y.unflatten(-1, self._y_shape)
        x = self._transform(inner)
        log_det = self._transform.log_abs_det_jacobian(inner, x)
        if log_det.dim() == y.dim():  # an elementwise bijection
            log_det = log_det.sum(-1)
        return x.flatten(-len(self._shape)), log_det

    def to_y(self, x: Tensor) -> Tensor:
        return self._transform.inv(x.unflatten(-1, self._shape)).flatten(-len(self._y_shape))

    def contains(self, x: Tensor) -> Tensor:
        inside = self._constraint.check(x.unflatten(-1, self._shape))
        return inside.all(-1) if inside.dim() == x.dim() else inside


Piece = Scalars | Joint
_HALF_LINES = {
    constraints.greater_than: (Scalars.HALF_OPEN, 1.0),
    constraints.greater_than_eq: (Scalars.HALF_CLOSED, 1.0),
    constraints.less_than: (Scalars.HALF_OPEN, -1.0),
}
_INTERVALS = (constraints.interval, constraints.half_open_interval)
_ENDLESS = (type(constraints.positive_integer), type(constraints.nonnegative_integer))


def make_piece(constraint: Constraint, size: int | None, name: str, caller: str) -> tuple[Piece, list[Kind]]:
    """The map of one block and the kinds of its working coordinates."""
    count = 1 if size is None else size
    inf = math.inf
    if isinstance(constraint, type(constraints.real)):
        return Scalars([(Scalars.LINE, 0.0, 1.0, -inf, inf)] * count), [Line()] * count
    if type(constraint) in _HALF_LINES:
        code, sign = _HALF_LINES[type(constraint)]
        end = getattr(constraint, "upper_bound" if sign < 0 else "lower_bound")
        ends = _each(end, count, name, caller)
        if not all(math.isfinite(a) for a in ends):
            raise ValueError(f"{caller}: expected a finite bound for `{name}`; got {constraint}. Use ttvi.real.")
        rows = [(code, a, sign, a if sign > 0 else -inf, inf if sign > 0 else a) for a in ends]
        return Scalars(rows), [Line(logarithmic=True)] * count
    if type(constraint) in _INTERVALS or isinstance(constraint, circular):
        lower, upper = (_each(end, count, name, caller) for end in bounds(constraint))
        for a, b in zip(lower, upper):
            check_bounds(a, b, name, caller)
        turn = isinstance(constraint, circular)
        code = Scalars.CIRCLE if turn else Scalars.INTERVAL
        rows = [(code, 0.0, 1.0, a, b) for a, b in zip(lower, upper)]
        return Scalars(rows), [Circle(a, b) if turn else Interval(a, b) for a, b in zip(lower, upper)]
    if constraint.event_dim == 0 and constraint.is_discrete:
        spans = _integers(constraint, count, name, caller)
        rows = [(Scalars.FINITE, float(a), 1.0, float(a), float(b)) for a, b in spans]
        return Scalars(rows), [Finite(tuple(float(v) for v in range(a, b + 1))) for a, b in spans]
    try:
        joint = Joint(constraint, (count, count) if constraint.event_dim == 2 else (count,))
    except NotImplementedError:
        raise _unknown(constraint, name, caller) from None
    return joint, [Line()] * joint.y_size


def _integers(constraint: Constraint, count: int, name: str, caller: str) -> list[tuple[int, int]]:
    """First and last value of each finite coordinate."""
    if isinstance(constraint, categorical):
        return [(0, constraint.k - 1)] * count
    if isinstance(constraint, type(constraints.boolean)):
        return [(0, 1)] * count
    if not isinstance(constraint, constraints.integer_interval):
        raise _unknown(constraint, name, caller)
    lower, upper = (_each(end, count, name, caller) for end in bounds(constraint))
    for a, b in zip(lower, upper):
        if not (a <= b and math.isfinite(b - a) and a == int(a) and b == int(b)):
            raise ValueError(
                f"{caller}: expected integers lower <= upper for `{name}`; got {constraint}. Correct the bounds."
            )
    return [(int(a), int(b)) for a, b in zip(lower, upper)]


def _unknown(constraint: Constraint, name: str, caller: str) -> ValueError:
    remedy = "Use one of ttvi.real, positive, interval, circular, categorical, or torch's simplex and corr_cholesky."
    if isinstance(constraint, _ENDLESS):
        remedy = "Bound it: torch.distributions.constraints.integer_interval(a, b)."
    return ValueError(f"{caller}: expected a supported constraint for `{name}`; got {constraint}. {remedy}")


def _each(bound: Any, count: int, name: str, caller: str) -> list[float]:
    """A bound for each of ``count`` entries, from a number or a tensor."""
    values = torch.as_tensor(bound, dtype=torch.float64).reshape(-1).tolist()
    if len(values) not in (1, count):
        raise ValueError(
            f"{caller}: expected one bound, or {count}, for `{name}`; got {len(values)}. Pass (constraint, {len(values)})."
        )
    return values * count if len(values) == 1 else values
