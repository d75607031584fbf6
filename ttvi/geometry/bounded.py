"""A triangular map that knows where coordinates end: each normal between its walls, given the earlier ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .coordinates import Coordinates
from .interval import from_line, to_line
from .mixing import Mixing, Triangular, tame
from .regression import KNOTS, expand, hinge
from .truncated_normal import from_normal, scored, settled, to_normal

__all__ = ["Bounded", "between_walls"]

LINE, HALF_LINE, INTERVAL = 0, 1, 2
LARGEST = 300.0  # of a logarithm
SMALLEST = 1e-300  # distance from a wall
BESIDE = 4.0  # deviations from a wall that is felt
FELT = 0.01  # share of the draws beside one
NOWHERE = 1e20  # a wall that is none; of infinity there are no derivatives
INSIDE = 0.03  # share of an interval at its ends, where its line bends


@dataclass(frozen=True)
class Bounded(Mixing):
    r"""Each coordinate normal between its walls given the earlier ones, all of them as they are and not as lines.

    .. math:: v_i = \mu_i(v_{<i}) + \sigma_i(v_{<i})\, y_i, \qquad
              \Phi(s_i) = \frac{\Phi(y_i) - \Phi(a_i)}{\Phi(b_i) - \Phi(a_i)}

    with :math:`v = e^t` on half-lines, the place between the ends on intervals and :math:`v = t` elsewhere, and :math:`a, b` the
    walls in units of :math:`\sigma_i` from :math:`\mu_i`. A density that is cut off at a wall has a tail like a normal one in ``s``; a ridge
    that runs into a wall stays straight.

    Attributes:
        inner: :math:`\mu` and :math:`\sigma`, as of :class:`.mixing.Triangular`, of ``v``.
        ends: what every coordinate is: 0 for a line, 1 for a half-line, 2 for an interval, shape (m,).

    References:
        Botev, The normal law under linear restrictions: simulation and estimation via minimax tilting (2017).
    """

    inner: Triangular
    ends: Tensor

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        walls = self._walls.to(s)
        columns: list[Tensor] = []
        distances = torch.ones_like(s)
        total = s.new_zeros(s.shape[:-1])
        for i, bounded in enumerate(self._bounded):
            mean, log_scale = self.inner.row(i, columns, s)
            if not bounded:
                columns.append(mean + log_scale.exp() * s[..., i])
                total = total + log_scale
                continue
            mean, log_scale = settled(mean, log_scale, walls[0, i], walls[1, i])
            scale = log_scale.exp()
            y, distance, slope = from_normal(s[..., i], (walls[0, i] - mean) / scale, (walls[1, i] - mean) / scale)
            columns.append((mean + scale * y).clamp_min(walls[0, i]).clamp_max(walls[1, i]))
            distances[..., i] = scale * distance
            total = total + log_scale + slope
        order, scale = self.inner.order, self.inner.scale.to(s)
        v = self.inner.loc.to(s) + scale * torch.stack(columns, -1)
        t = torch.empty_like(s)
        t[..., order], slopes = self._to_line(v, scale * distances)
        return t, total + scale.log().sum() - slopes.sum(-1)

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s, volumes = self._columns(t)
        return s, volumes.sum(-1)

    def contributions(self, t: Tensor) -> Tensor:
        """Of every coordinate to the log-density, were all columns standard normal, less the constant, shape (..., m) to (..., m)."""
        s, volumes = self._columns(t)
        return volumes - 0.5 * s.square()

    def standardised(self, shift: Tensor, scale: Tensor) -> Bounded:
        """As :meth:`.mixing.Triangular.standardised`, of columns without walls alone."""
        shift, scale = torch.where(self.free, shift, 0.0), torch.where(self.free, scale, 1.0)
        return replace(self, inner=self.inner.standardised(shift, scale))

    def tensors(self) -> dict[str, Tensor]:
        return {f"inner.{name}": value for name, value in self.inner.tensors().items()} | {"ends": self.ends}

    @property
    def order(self) -> Tensor:
        """Coordinate ``order[k]`` is working column k, shape (m,)."""
        return self.inner.order

    def places(self, t: Tensor) -> Tensor:
        """Coordinates as the map sees them: ``v``, shape (..., m)."""
        return self._from_line(t[..., self.order])[0][..., self.order.argsort()]

    @cached_property
    def free(self) -> Tensor:
        """Which columns have no walls, shape (m,), bool."""
        return self.ends[self.order] == LINE

    @cached_property
    def _bounded(self) -> list[bool]:
        return (~self.free).tolist()

    @cached_property
    def _walls(self) -> Tensor:
        """In order, standardised, shape (2, m)."""
        ends = self.ends[self.order]
        standardised = (torch.tensor([[0.0], [1.0]]).to(self.inner.loc) - self.inner.loc) / self.inner.scale
        return torch.stack([
            torch.where(ends == LINE, -NOWHERE, standardised[0]), torch.where(ends == INTERVAL, standardised[1], NOWHERE)
        ])  # fmt: skip

    def _columns(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Columns ``s``, and what each adds to the log-determinant, both (..., m)."""
        v, slopes = self._from_line(t[..., self.order])
        scale = self.inner.scale.to(t)
        z = (v - self.inner.loc.to(t)) / scale
        mean, log_scale = self.inner.rows(z)
        free, walls = self.free.to(t.device), self._walls.to(t)
        lower, upper = torch.where(free, -1.0, walls[0]), torch.where(free, 1.0, walls[1])
        bounded_mean, bounded_log_scale = settled(torch.where(free, 0.0, mean), log_scale, lower, upper)
        mean = torch.where(free, mean, bounded_mean)
        log_scale = torch.where(free, log_scale, bounded_log_scale)
        y = (z - mean) * torch.exp(-log_scale)
        inside = torch.where(free, 0.0, y)
        distance = torch.where(free, 1.0, v / scale * torch.exp(-log_scale))
        deviation = torch.exp(-log_scale)
        a = torch.where(free, -1.0, (lower - mean) * deviation)
        b = torch.where(free, 1.0, (upper - mean) * deviation)
        s, volume = to_normal(inside.maximum(a).minimum(b), distance, a, b)
        own = torch.where(free, 0.0, volume) - log_scale - scale.log() + slopes
        return torch.where(free, y, s), own

    def _from_line(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``v`` and log |dv/dt| of coordinates in order."""
        ends = self.ends[self.order].to(t.device)
        half, interval = ends == HALF_LINE, ends == INTERVAL
        exponent = torch.where(half, t, 0.0).clamp(-_limit(t), _limit(t))
        place, slope = from_line(torch.where(interval, t, 0.5))
        v = torch.where(half, exponent.exp(), torch.where(interval, place, t))
        return v, exponent + torch.where(interval, slope, 0.0)

    def _to_line(self, v: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse, and log |dv/dt| there; next to the lower end the distance has all its digits."""
        ends = self.ends[self.order].to(v.device)
        half, interval = ends == HALF_LINE, ends == INTERVAL
        exponent = torch.where(half, distance, 1.0).clamp_min(_smallest(v)).log()
        place = torch.where(interval, torch.where(v < 0.5, distance, v), 0.5)
        line = to_line(place)
        t = torch.where(half, exponent, torch.where(interval, line, v))
        return t, exponent + torch.where(interval, from_line(line)[1], 0.0)

    @classmethod
    def fit(cls, points: Tensor, movable: Tensor, order: Tensor, ends: Tensor) -> tuple[Bounded, float]:
        """Means and scales as of :meth:`.mixing.Triangular.fit`, those of coordinates that feel a wall by maximum likelihood then.

        Args:
            points: draws ``t``, shape (N, m).
            movable: which coordinates take part, shape (m,).
            order: in which they are given, shape (m,).
            ends: what every coordinate is, shape (m,); lines where nothing else takes part.

        Returns:
            The map, and the penalised log-likelihood of the draws, per draw, less the constant.
        """
        lines = torch.arange(len(order))
        nothing = torch.zeros(len(order), dtype=points.dtype)
        v, _ = cls(_plain(lines, nothing), ends)._from_line(points)
        inner, score = Triangular.fit(v, movable, order)
        made = cls(inner, ends)
        z = (v[:, order] - inner.loc) / inner.scale
        before = -0.5 * inner.inverse(v)[0].square() - inner.rows(z)[1]
        for i in (~made.free & movable[order]).nonzero()[:, 0].tolist():
            inner = _felt(inner, i, z, *made._walls[:, i].tolist())
        made = cls(inner, ends)
        after = made.contributions(points) + inner.scale.log()
        return made, score + float((after - before)[:, movable[order]].sum(1).mean())


def between_walls(
    plain: Triangular, score: float, points: Tensor, coordinates: Coordinates, order: Tensor
) -> tuple[Triangular | Bounded, float]:
    """The best of three: all coordinates as lines, every one that has a wall as it is, or those alone that are better so.

    Args:
        plain: fitted to the same points as lines.
        score: its.
        points: draws ``t``, shape (N, m).
        coordinates: theirs.
        order: in which they are given, shape (m,).

    Returns:
        The map, and its score as of :meth:`Bounded.fit`.
    """
    ends = coordinates.ends
    # An interval that nothing comes near the ends of is a line as it is.
    place, _ = from_line(points)
    within = (coordinates.interval & (place > INSIDE) & (place < 1 - INSIDE)).all(0)
    far = ~coordinates.interval & (points.abs().amax(0) > LARGEST)
    ends = torch.where(within | far, LINE, ends)
    if not bool((ends != LINE).any()):
        return plain, score
    as_lines = Bounded(plain, torch.zeros_like(ends)).contributions(points).mean(0)
    every = Bounded.fit(points, coordinates.line, order, ends)
    gained = torch.zeros_like(as_lines)
    gained[order] = every[0].contributions(points).mean(0) - as_lines
    some = torch.where(gained > 0, ends, LINE)
    tried: list[tuple[Triangular | Bounded, float]] = [(plain, score), every]
    if bool((some != ends).any()) and bool((some != LINE).any()):
        tried.append(Bounded.fit(points, coordinates.line, order, some))
    return max(tried, key=lambda made: made[1])


def _plain(order: Tensor, nothing: Tensor) -> Triangular:
    """The identity."""
    square = torch.zeros(len(order), len(order), dtype=nothing.dtype)
    return Triangular(
        order,
        nothing,
        torch.ones_like(nothing),
        nothing,
        square,
        nothing,
        square,
        torch.zeros(0, 3).long(),
        nothing[:0],
    )


def _felt(inner: Triangular, i: int, z: Tensor, lower: float, upper: float) -> Triangular:
    """Row i of the highest likelihood between walls, where enough of the draws feel one."""
    means, log_scales = (part[:, i] for part in inner.rows(z))
    reach = BESIDE * log_scales.exp()
    beside = (means - lower < reach) | (upper - means < reach)
    if float(beside.double().mean()) < FELT:
        return inner
    in_mean, in_scale = inner.slope[i].nonzero()[:, 0], inner.log_slope[i].nonzero()[:, 0]
    products, bends = (inner.pairs[:, 0] == i).nonzero()[:, 0], (inner.hinges[:, 0] == i).nonzero()[:, 0]
    near = tame(z)
    one = z.new_ones(len(z), 1)
    pairs, hinges = inner.pairs[products], inner.hinges[bends]
    knots = torch.tensor(KNOTS, dtype=z.dtype)[hinges[:, 2]]
    mean = torch.cat([one, z[:, in_mean], expand(near, pairs[:, 1]) * expand(near, pairs[:, 2])], 1)
    log_scale = torch.cat([one, near[:, in_scale], hinge(near[:, hinges[:, 1]] - knots)], 1)
    beta = torch.cat([inner.intercept[i : i + 1], inner.slope[i, in_mean], inner.weights[products]])
    gamma = torch.cat([inner.log_intercept[i : i + 1], inner.log_slope[i, in_scale], inner.hinge_weights[bends]])
    beta, gamma = scored(z[:, i], lower, upper, mean, log_scale, (beta, gamma))
    fields = ("intercept", "slope", "weights", "log_intercept", "log_slope", "hinge_weights")
    found = {name: getattr(inner, name).clone() for name in fields}
    found["intercept"][i], found["log_intercept"][i] = beta[0], gamma[0]
    found["slope"][i, in_mean], found["weights"][products] = beta[1 : 1 + len(in_mean)], beta[1 + len(in_mean) :]
    found["log_slope"][i, in_scale], found["hinge_weights"][bends] = (
        gamma[1 : 1 + len(in_scale)],
        gamma[1 + len(in_scale) :],
    )
    return replace(inner, **found)


def _limit(like: Tensor) -> float:
    return min(LARGEST, 80.0) if like.dtype == torch.float32 else LARGEST


def _smallest(like: Tensor) -> float:
    return max(SMALLEST, float(torch.finfo(like.dtype).tiny))
