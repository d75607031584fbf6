"""From a support to coordinates without bounds: lines, circles and finite sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..supports import Circle, Finite, Interval, Line, Support
from .interval import from_line, to_line

__all__ = ["Coordinates", "Pullback"]

LINES, ANGLES = 2, 4  # from which on they follow each other


@dataclass(frozen=True)
class Coordinates:
    r"""Unbounded coordinates ``t`` of a support: intervals go to the line, circles and finite sets stay.

    Attributes:
        support: the support, whose own working coordinates are ``y``.

    >>> from ttvi.supports import Support, interval, real
    >>> coordinates = Coordinates(Support.parse([real, interval(0.0, 4.0)]))
    >>> x, log_slope = coordinates.to_x(torch.full((1, 2), 0.5, dtype=torch.float64))
    >>> [round(v, 4) for v in x[0].tolist()], round(float(log_slope.exp()), 4)
    ([0.5, 2.0], 4.0)
    """

    support: Support

    @property
    def dim(self) -> int:
        """Number of coordinates m."""
        return self.support.num_coordinates

    @cached_property
    def bounds(self) -> Tensor:
        """Lower ends and lengths of intervals and circles, shape (2, m); zero and one elsewhere."""
        ends = [
            (float(kind.lower), float(kind.upper - kind.lower)) if isinstance(kind, Interval | Circle) else (0.0, 1.0)
            for kind in self.support.kinds
        ]
        return torch.tensor(ends, dtype=torch.float64).T

    @cached_property
    def interval(self) -> Tensor:
        """Which coordinates are intervals, shape (m,)."""
        return torch.tensor([isinstance(kind, Interval) for kind in self.support.kinds])

    @cached_property
    def line(self) -> Tensor:
        """Which coordinates are lines, those made from intervals included, shape (m,)."""
        return torch.tensor([isinstance(kind, Interval | Line) for kind in self.support.kinds])

    @cached_property
    def ends(self) -> Tensor:
        """What :class:`.bounded.Bounded` calls every coordinate: 0 for a line, 1 for the logarithm of a half-line, 2 for an interval."""
        half = [isinstance(kind, Line) and kind.logarithmic for kind in self.support.kinds]
        return torch.where(self.interval, 2, torch.tensor(half).long())

    @cached_property
    def circle(self) -> Tensor:
        """Which coordinates are angles, shape (m,)."""
        return torch.tensor([isinstance(kind, Circle) for kind in self.support.kinds])

    @cached_property
    def following(self) -> Tensor:
        """Which coordinates may follow each other in a triangular chart: lines, and several angles, shape (m,).

        A line alone has none to follow, and few angles are little to a train as they are.
        """
        several = ((self.line, LINES), (self.circle, ANGLES))
        kinds = [kind for kind, least in several if int(kind.sum()) >= least]
        return sum(kinds, torch.zeros(self.dim, dtype=torch.bool))

    @cached_property
    def sizes(self) -> Tensor:
        """Number of values of finite coordinates, 0 elsewhere, shape (m,)."""
        return torch.tensor([len(kind.values) if isinstance(kind, Finite) else 0 for kind in self.support.kinds])

    def to_x(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The map, differentiable.

        Args:
            t: shape (..., m).

        Returns:
            Points of the support, shape (..., D), and ``log |dx/dt|``, shape (...).
        """
        if not self._bounded:
            return self.support.to_x(t)
        lower, length = self.bounds.to(t)
        inside = self.interval.to(t.device)
        safe = torch.where(inside, t, 0.0)
        u, slope = from_line(safe)
        y = torch.where(inside, self._strictly_inside(lower + length * u), t)
        x, log_slope = self.support.to_x(y)
        return x, log_slope + torch.where(inside, slope + length.log(), 0.0).sum(-1)

    @cached_property
    def _bounded(self) -> bool:
        return bool(self.interval.any())

    def _strictly_inside(self, y: Tensor) -> Tensor:
        """Never the end of an interval itself, where a density may be infinite or nothing."""
        lower, length = self.bounds.to(y)
        upper = lower + length
        return torch.minimum(torch.maximum(y, torch.nextafter(lower, upper)), torch.nextafter(upper, lower))

    def rounded(self, x: Tensor) -> Tensor:
        """Which points, shape (...), have rounded to an end of an interval: all that lies beyond has the same number.

        Args:
            x: points of the support, shape (..., D).

        >>> from ttvi.supports import Support, interval
        >>> coordinates = Coordinates(Support.parse([interval(2.0, 4.0)]))
        >>> coordinates.rounded(coordinates.to_x(torch.tensor([[-3.0], [0.5], [1.2], [1.4]]).double())[0]).tolist()
        [True, False, False, True]
        """
        if not self._bounded:
            return torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
        y = self.support.to_y(x)
        lower, length = self.bounds.to(y)
        upper = lower + length
        ended = (y >= torch.nextafter(upper, lower)) | (y <= torch.nextafter(lower, upper))
        return (self.interval.to(y.device) & ended).any(-1)

    def to_t(self, x: Tensor) -> Tensor:
        """The inverse map.

        Args:
            x: points of the support, shape (..., D). An end of an interval counts as the number next to it.

        Returns:
            Shape (..., m).
        """
        y = self.support.to_y(x)
        lower, length = self.bounds.to(y)
        inside = self.interval.to(y.device)
        u = torch.where(inside, (y - lower) / length, 0.5)
        return torch.where(inside, to_line(u), y)

    def wrap(self, t: Tensor) -> Tensor:
        """The same points with every angle in its period and every finite coordinate on its set.

        Args:
            t: shape (..., m).
        """
        lower, length = self.bounds.to(t)
        t = torch.where(self.circle.to(t.device), lower + torch.remainder(t - lower, length), t)
        sizes = self.sizes.to(t)
        return torch.where(sizes > 0, torch.remainder(t.round(), sizes.clamp_min(1)), t)


@dataclass(frozen=True)
class Pullback:
    """A log-density seen from the coordinates ``t``: log p̃(x(t)) + log |dx/dt|.

    Attributes:
        coordinates: the map.
        evaluate: log p̃ at points of the support, (batch, D) -> (batch,).
        gradient: values and gradients there, (batch, D) -> (batch,) and (batch, D), or None.

    >>> from ttvi.supports import Support, positive
    >>> exponential = Pullback(Coordinates(Support.parse([positive])), lambda x: -x.sum(-1))
    >>> exponential(torch.tensor([[0.0]]))  # -exp(t) + t
    tensor([-1.])
    """

    coordinates: Coordinates
    evaluate: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, t: Tensor) -> Tensor:
        """Values, shape (batch, m) to (batch,); ``-inf`` where ``x(t)`` leaves the range of floating-point numbers."""
        x, log_slope = self.coordinates.to_x(t)
        usable = _usable(x, log_slope)
        values = torch.full_like(log_slope, -math.inf)
        if bool(usable.any()):
            values[usable] = self.evaluate(x[usable]).to(values) + log_slope[usable]
        return values

    def value_and_gradient(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gradients together; one evaluation with gradient per row that :meth:`__call__` would evaluate.

        Args:
            t: shape (batch, m).

        Returns:
            Values (batch,), ``-inf`` where they are not numbers, and gradients (batch, m), zero where they are not finite
            and for finite coordinates, between whose values a formula may say anything.
        """
        assert self.gradient is not None
        values = t.new_full(t.shape[:-1], -math.inf)
        slopes = torch.zeros_like(t)
        with torch.enable_grad():
            leaf = t.detach().clone().requires_grad_(True)
            x, log_slope = self.coordinates.to_x(leaf)
            usable = _usable(x.detach(), log_slope.detach())
            if not bool(usable.any()):
                return values, slopes
            found, inner = self.gradient(x.detach()[usable])
            chained = (x[usable] * inner.to(x).nan_to_num(0.0, 0.0, 0.0)).sum() + log_slope[usable].sum()
            (slopes,) = torch.autograd.grad(chained, leaf)
        values[usable] = found.to(values) + log_slope.detach()[usable]
        values = torch.where(values.isnan() | (values == math.inf), -math.inf, values)
        moving = usable[:, None] & (self.coordinates.sizes.to(t.device) == 0)
        return values, torch.where(moving, slopes, 0.0).nan_to_num(0.0, 0.0, 0.0)


def _usable(x: Tensor, log_slope: Tensor) -> Tensor:
    return torch.isfinite(x).all(-1) & torch.isfinite(log_slope)
