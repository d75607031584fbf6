"""The map between the coordinates a train is built in and those of the user."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..supports import Circle, Support
from ..tt.basis import Basis, Categorical, Fourier, Legendre
from .angles import Angles
from .bounded import Bounded, between_walls
from .conditional import ConditionallyAffine
from .coordinates import Coordinates
from .interval import from_line
from .mixing import Affine, Mixing, Scaled, Triangular
from .reduction import reduced
from .stretch import Stretch, tail_exponent

__all__ = ["MANY_COORDINATES", "Chart"]

# Of an interval, from the first to the last hundredth of the mass, from which on it is covered as it is; in many coordinates.
NATIVE_SPREAD, NARROW_SPREAD = 0.2, 0.1
LEAST_END = 1.0  # deviation, where all points are one
TINY = 1e-12
MANY_COORDINATES = 40  # in which the slopes of stretched columns add up to more than a density falls off


@dataclass(frozen=True)
class Chart:
    r"""Chart: :math:`x = X(t)`, :math:`t = M(s)`, :math:`s = S(w)`.

    ``X`` is the map of the support, ``S`` the stretch of every column and ``M`` the mixing: a scaled permutation
    (*axis-aligned*: marginals and conditionals stay exact), an affine map (*whitened*), or a triangular one.

    Attributes:
        coordinates: the coordinates ``t``.
        mixing: the map ``M``.
        stretch: the map ``S``.
        order: the kind of working column k is that of coordinate ``order[k]``, shape (m,).
        label: what it is, in words.
    """

    coordinates: Coordinates
    mixing: Mixing
    stretch: Stretch
    order: Tensor
    label: str = "axis"

    @property
    def support(self) -> Support:
        """The user's support."""
        return self.coordinates.support

    @property
    def dim(self) -> int:
        """Number of working coordinates m."""
        return len(self.order)

    @property
    def axis_aligned(self) -> bool:
        """Whether every working coordinate belongs to one coordinate of the user."""
        return self.mixing.axis_aligned

    @property
    def smooth(self) -> bool:
        """Whether the map has no jumps, which no train could follow."""
        return not isinstance(self.mixing, Angles) or self.mixing.smooth

    def bases(self) -> list[Basis]:
        """A basis without size for every working coordinate."""
        sizes = self.coordinates.sizes.tolist()
        made: list[Basis] = []
        for k in self.order.tolist():
            kind = self.support.kinds[k]
            if sizes[k]:
                made.append(Categorical(int(sizes[k])))
            elif isinstance(kind, Circle):
                made.append(Fourier(float(kind.lower), float(kind.upper)))
            else:
                made.append(Legendre(-1.0, 1.0))
        return made

    def to_t(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Working coordinates (..., m) to ``t`` (..., m) and ``log |dt/dw|`` (...)."""
        s, slope = self.stretch.forward(w)
        t, volume = self.mixing.forward(s)
        return t, slope.sum(-1) + volume

    def from_t(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``t`` (..., m) to working coordinates (..., m) and ``log |dw/dt|`` (...)."""
        s, volume = self.mixing.inverse(t)
        w, slope = self.stretch.inverse(s)
        return w, slope.sum(-1) + volume

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Working coordinates (..., m) to points of the support (..., D) and ``log |dx/dw|`` (...)."""
        t, slope = self.to_t(w)
        x, outer = self.coordinates.to_x(t)
        return x, slope + outer

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points inside the support (..., D) to working coordinates (..., m) and ``log |dw/dx|`` (...)."""
        t = self.coordinates.to_t(x)
        w, slope = self.from_t(t)
        return w, slope - self.coordinates.to_x(t)[1]

    # -- making ------------------------------------------------------------------------------------------------------

    @classmethod
    def axis(
        cls, coordinates: Coordinates, points: Tensor, *, order: Tensor | None = None,
        ends: tuple[Tensor, Tensor] | None = None, label: str = "axis",
    ) -> Chart:  # fmt: skip
        """Location, scale and tails of every coordinate from draws; an interval that they fill is covered as it is.

        Args:
            coordinates: the coordinates.
            points: draws ``t``, shape (N, m).
            order: of the working coordinates; None keeps the user's.
            ends: where the columns of lines end, shape (m,) each, infinite where they do not (see :meth:`boxed`); None: nowhere.
            label: in words.
        """
        order = torch.arange(coordinates.dim) if order is None else order
        loc, scale, tau = tail_exponent(points)
        u, _ = from_line(points)
        spread = torch.quantile(u, 0.99, dim=0) - torch.quantile(u, 0.01, dim=0)
        native = coordinates.interval & (spread > (NATIVE_SPREAD if len(order) <= MANY_COORDINATES else NARROW_SPREAD))
        plain = ~coordinates.line | native
        loc, scale, tau = torch.where(plain, 0.0, loc), torch.where(plain, 1.0, scale), torch.where(plain, 0.0, tau)
        half = None
        if ends is not None:
            lower, upper = ends
            ending = ~plain & torch.isfinite(upper - lower)
            loc, tau = torch.where(ending, 0.5 * (lower + upper), loc), torch.where(ending, 0.0, tau)
            scale = torch.where(ending, points.std(0).clamp_min(TINY), scale)
            half = torch.where(ending, (0.5 * (upper - lower) / scale).clamp_min(LEAST_END), 0.0)[order]
        stretch = Stretch(tau[order], native[order], ~coordinates.line[order], half)
        return cls(coordinates, Scaled(loc, scale[order], order), stretch, order, label)

    @classmethod
    def affine(cls, coordinates: Coordinates, points: Tensor, loc: Tensor, matrix: Tensor, *, label: str) -> Chart:
        r"""Whitened: :math:`t = \mathrm{loc} + M s`, every column with its own location, scale and tails from draws.

        Args:
            coordinates: the coordinates.
            points: draws ``t``, shape (N, m).
            loc, matrix: shape (m,) and (m, m); zero and the identity on angles and finite sets.
            label: in words.
        """
        s = (points - loc) @ torch.linalg.inv(matrix).T
        shift, scale, tau = tail_exponent(s)
        line = coordinates.line
        shift, scale, tau = torch.where(line, shift, 0.0), torch.where(line, scale, 1.0), torch.where(line, tau, 0.0)
        stretch = Stretch(tau, torch.zeros_like(line), ~line)
        return cls(
            coordinates, Affine(loc + matrix @ shift, matrix * scale), stretch, torch.arange(coordinates.dim), label
        )

    @classmethod
    def plain_affine(cls, coordinates: Coordinates, loc: Tensor, matrix: Tensor, *, label: str) -> Chart:
        """An affine chart whose columns are taken to be standard normal."""
        line = coordinates.line
        stretch = Stretch(torch.zeros(coordinates.dim, dtype=loc.dtype), torch.zeros_like(line), ~line)
        return cls(coordinates, Affine(loc, matrix), stretch, torch.arange(coordinates.dim), label)

    @classmethod
    def triangular(
        cls, coordinates: Coordinates, points: Tensor, order: Tensor, *, label: str, single: bool = False
    ) -> tuple[Chart, float]:
        """Every coordinate given the earlier ones, with means and scales from draws; and the score of that fit.

        Args:
            coordinates: the coordinates.
            points: draws ``t``, shape (N, m).
            order: the order in which they are given, shape (m,).
            label: in words.
            single: every angle follows no more than one other.
        """
        plain, score = Triangular.fit(points, coordinates.line, order)
        circles = order[(coordinates.circle & coordinates.following)[order]]
        fitted: Triangular | Bounded = plain
        if not len(circles):
            fitted, score = between_walls(plain, score, points, coordinates, order)
        shift, scale, tau = tail_exponent(fitted.inverse(points)[0])
        line = coordinates.line[order]
        shift, scale, tau = torch.where(line, shift, 0.0), torch.where(line, scale, 1.0), torch.where(line, tau, 0.0)
        mixing: Mixing = fitted.standardised(shift, scale)
        if isinstance(mixing, Triangular) and len(circles):
            mixing, gained = Angles.fit(mixing, points, circles, *coordinates.bounds[:, circles], single=single)
            score += gained
        stretch = Stretch(tau, torch.zeros_like(line), ~line)
        return cls(coordinates, mixing, stretch, order, label), score

    @classmethod
    def conditional(cls, coordinates: Coordinates, mixing: ConditionallyAffine, points: Tensor, *, label: str) -> Chart:
        """The others given a few, every column with its own scale and tails from draws.

        Args:
            coordinates: the coordinates, all of them lines.
            mixing: the map.
            points: draws ``t``, shape (N, m).
            label: in words.
        """
        loc, scale, tau = tail_exponent(mixing.inverse(points)[0])
        plain = torch.zeros_like(tau).bool()
        return cls(coordinates, mixing.standardised(loc, scale), Stretch(tau, plain, plain), mixing.order, label)

    @classmethod
    def identity(cls, coordinates: Coordinates, *, label: str) -> Chart:
        """The coordinates ``t`` themselves."""
        nothing = torch.zeros(coordinates.dim, dtype=torch.float64)
        order = torch.arange(coordinates.dim)
        stretch = Stretch(nothing, nothing.bool(), torch.ones_like(order).bool())
        return cls(coordinates, Scaled(nothing, torch.ones_like(nothing), order), stretch, order, label)

    def unstretched(self) -> Chart:
        """The same chart from ``s`` instead of ``w``."""
        nothing = torch.zeros_like(self.stretch.exponents)
        identity = Stretch(nothing, torch.zeros_like(self.stretch.native), torch.ones_like(self.stretch.fixed))
        return replace(self, stretch=identity)

    def boxed(self, half: float) -> Chart:
        """The same chart with columns that end at so many deviations and are not stretched.

        The slope of a stretch grows with every column that is far out: in many coordinates what has next to no mass, like a wall
        between two wells, may tower over everything else point by point, which is all that a cross approximation sees.
        """
        stretch, nothing = self.stretch, torch.zeros_like(self.stretch.exponents)
        ends = torch.where(stretch.fixed, nothing, half)
        return replace(self, stretch=Stretch(nothing, torch.zeros_like(stretch.native), stretch.fixed, ends))

    def select(self, support: Support, kept: Tensor, t: Tensor | None = None) -> Chart | None:
        """A chart of the coordinates numbered ``kept`` (ascending) alone; None where it would need others as well.

        Args:
            support: theirs.
            kept: shape (m',).
            t: coordinates, shape (m,), of which the others are taken as known; None where they are integrated out.
        """
        rank = torch.full((self.dim,), -1)
        rank[kept] = torch.arange(len(kept))
        columns = (rank[self.order] >= 0).nonzero()[:, 0]
        mixing = reduced(self.mixing, columns, t)
        if mixing is None:
            return None
        stretch, order = self.stretch.columns(columns), rank[self.order[columns]]
        return replace(self, coordinates=Coordinates(support), mixing=mixing, stretch=stretch, order=order)
