"""A map that turns every angle by what the earlier ones say about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .mixing import Mixing, Triangular
from .von_mises import features, from_uniform, regress, to_uniform

__all__ = ["Angles"]

TINY = 1e-12  # of a pull: none at all has no direction


@dataclass(frozen=True)
class Angles(Mixing):
    r"""Each angle given the earlier ones, and a triangular map for all that are no angles.

    .. math:: \theta_k = \arg z_k + Q(u_k; |z_k|), \qquad
              z_k = a_{k0} + \sum_{j<k} \left( a_{kj}\, e^{i\theta_j} + b_{kj}\, e^{-i\theta_j} \right)

    with ``Q`` the quantiles of a von Mises distribution, so that uniform columns ``u`` make every angle von Mises around where
    the earlier ones pull it, as strongly as they agree. It is the conditional distribution of a spin in the field of its neighbours, and
    the circle's linear regression: what differences of angles are to one neighbour, for any number of them.

    Attributes:
        inner: the map of the other coordinates, which leaves angles as they are.
        circles: their coordinates, in the order in which they are given, shape (c,).
        lower, length: of their periods, in that order, shape (c,).
        coefficients: real and imaginary parts of one, the a and the b of every row, shape (2, c, 1 + 2c), zero from the row's
            own angle on.

    References:
        Mardia, Hughes, Taylor and Singh, A multivariate von Mises distribution with applications to bioinformatics (2008).
    """

    inner: Triangular
    circles: Tensor
    lower: Tensor
    length: Tensor
    coefficients: Tensor

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        t, total = self.inner.forward(s)
        t = t.clone()
        columns: list[tuple[Tensor, Tensor]] = []  # cosines and sines of the earlier ones
        for k, place in enumerate(self.circles.tolist()):
            u = self._wrapped(self._angle(k, t[..., place]))
            real, imaginary = self._pull(k, columns, u)
            offset, slope = from_uniform(u, torch.hypot(real, imaginary))
            theta = offset + torch.atan2(imaginary, real)
            t[..., place] = self._position(k, theta)
            total = total + slope
            columns.append((torch.cos(theta), torch.sin(theta)))
        return t, total

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        turned = t.clone()
        total = t.new_zeros(t.shape[:-1])
        columns: list[tuple[Tensor, Tensor]] = []
        for k, place in enumerate(self.circles.tolist()):
            theta = self._angle(k, t[..., place])
            real, imaginary = self._pull(k, columns, theta)
            u, slope = to_uniform(self._wrapped(theta - torch.atan2(imaginary, real)), torch.hypot(real, imaginary))
            turned[..., place] = self._position(k, u)
            total = total + slope
            columns.append((torch.cos(theta), torch.sin(theta)))
        s, volume = self.inner.inverse(turned)
        return s, total + volume

    def tensors(self) -> dict[str, Tensor]:
        inner = {f"inner.{name}": value for name, value in self.inner.tensors().items()}
        return inner | {
            "circles": self.circles, "lower": self.lower, "length": self.length, "coefficients": self.coefficients
        }  # fmt: skip

    @property
    def order(self) -> Tensor:
        """Coordinate ``order[k]`` is working column k, shape (m,)."""
        return self.inner.order

    def pull_of(self, positions: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of what some angles add to every row's z, shape (c,).

        Args:
            positions: of all angles, in order, shape (c,).
            known: which take part, shape (c,), bool.
        """
        theta = (positions - self.lower) * (2 * math.pi / self.length) - math.pi
        unit = torch.polar(torch.ones_like(theta), theta) * known
        terms = torch.complex(self.coefficients[0, :, 1:], self.coefficients[1, :, 1:])
        pull = terms @ torch.cat([unit, unit.conj()])
        return pull.real, pull.imag

    def _angle(self, k: int, position: Tensor) -> Tensor:
        """A position on circle k as an angle; the middle of its period is zero."""
        return (position - self.lower[k].to(position)) * (2 * math.pi / float(self.length[k])) - math.pi

    def _position(self, k: int, angle: Tensor) -> Tensor:
        turns = torch.remainder(angle + math.pi, 2 * math.pi) / (2 * math.pi)
        return self.lower[k].to(angle) + turns * self.length[k].to(angle)

    def _wrapped(self, angle: Tensor) -> Tensor:
        return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi

    def _pull(self, k: int, columns: list[tuple[Tensor, Tensor]], like: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of z."""
        number = len(self.circles)
        a = self.coefficients[:, k].to(like)
        real, imaginary = a[0, 0].expand(like.shape) + TINY, a[1, 0].expand(like.shape)
        for j in self._earlier[k]:
            cosine, sine = columns[j]
            with_it, against = a[:, 1 + j], a[:, 1 + number + j]
            real = real + (with_it[0] + against[0]) * cosine + (against[1] - with_it[1]) * sine
            imaginary = imaginary + (with_it[1] + against[1]) * cosine + (with_it[0] - against[0]) * sine
        return real, imaginary

    @cached_property
    def _earlier(self) -> list[list[int]]:
        """Of every row, the angles that it follows."""
        return [row.nonzero()[:, 0].tolist() for row in self.follows]

    @cached_property
    def follows(self) -> Tensor:
        """Which angles a row follows, shape (c, c), bool."""
        number = len(self.circles)
        used = (self.coefficients != 0).any(0)[:, 1:]
        return used[:, :number] | used[:, number:]

    @cached_property
    def smooth(self) -> bool:
        """Whether it has no jumps: the direction of a sum has one where its terms cancel."""
        return bool(((self.coefficients != 0).any(0).sum(1) <= 1).all())

    @classmethod
    def fit(
        cls, inner: Triangular, points: Tensor, circles: Tensor, lower: Tensor, length: Tensor, *, single: bool = False
    ) -> tuple[Angles, float]:
        """Every angle regressed on the earlier ones; see :func:`.von_mises.regress`.

        Args:
            inner: the map of the other coordinates.
            points: draws ``t``, shape (N, m).
            circles: coordinates of the angles, in the order in which they are given, shape (c,).
            lower, length: of their periods, shape (c,).
            single: every angle follows no more than one other.

        Returns:
            The map, and the sum of the scores.
        """
        number = len(circles)
        theta = (points[:, circles] - lower) * (2 * math.pi / length) - math.pi
        unit = torch.polar(torch.ones_like(theta), theta)
        coefficients = points.new_zeros(2, number, 1 + 2 * number)
        score = 0.0
        for k in range(number):
            found, gained = regress(unit[:, k], features(unit[:, :k]), single=single)
            places = torch.cat([torch.zeros(1).long(), 1 + torch.arange(k), 1 + number + torch.arange(k)])
            coefficients[:, k, places] = torch.stack([found.real, found.imag])
            score += gained
        return cls(inner, circles, lower, length, coefficients), score
