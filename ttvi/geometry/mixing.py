"""Maps of the whole space between the stretched columns ``s`` and the coordinates ``t``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from .regression import KNOTS, expand, fit_row, hinge, shared_scales

__all__ = ["Affine", "Mixing", "Scaled", "Triangular", "tame"]


REACH = 12.0  # standard deviations


class Mixing(ABC):
    """A bijection of (..., m): ``s`` in working order to ``t``, with log-determinants of shape (...)."""

    axis_aligned: ClassVar[bool] = False

    @abstractmethod
    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The map.

        Args:
            s: columns in working order, shape (..., m).

        Returns:
            ``t``, shape (..., m), and log |dt/ds|, shape (...).
        """

    @abstractmethod
    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse map.

        Args:
            t: coordinates, shape (..., m).

        Returns:
            ``s``, shape (..., m), and log |ds/dt|, shape (...).
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that it takes to make it again, by the names of the arguments."""


@dataclass(frozen=True)
class Scaled(Mixing):
    """Axis-aligned: column k of ``s`` is coordinate ``order[k]``, shifted and scaled.

    Attributes:
        loc: per coordinate ``t``, shape (m,).
        scale: per column of ``s``, shape (m,), positive.
        order: a permutation, shape (m,).

    >>> mixing = Scaled(torch.tensor([10.0, 20.0]), torch.tensor([2.0, 3.0]), torch.tensor([1, 0]))
    >>> t, log_det = mixing.forward(torch.tensor([1.0, 1.0]))
    >>> t.tolist(), round(float(log_det.exp()), 4)
    ([13.0, 22.0], 6.0)
    """

    loc: Tensor
    scale: Tensor
    order: Tensor
    axis_aligned: ClassVar[bool] = True

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.empty_like(s)
        t[..., self.order] = self.loc.to(s)[self.order] + self.scale.to(s) * s
        return t, self.scale.log().sum().to(s).expand(s.shape[:-1])

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = (t - self.loc.to(t))[..., self.order] / self.scale.to(t)
        return s, -self.scale.log().sum().to(t).expand(t.shape[:-1])

    def tensors(self) -> dict[str, Tensor]:
        return {"loc": self.loc, "scale": self.scale, "order": self.order}


@dataclass(frozen=True)
class Affine(Mixing):
    """``t = loc + matrix @ s``.

    Attributes:
        loc: shape (m,).
        matrix: invertible, shape (m, m).

    >>> mixing = Affine(torch.zeros(2), torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    >>> t, log_det = mixing.forward(torch.tensor([1.0, 1.0]))
    >>> t.tolist(), round(float(log_det.exp()), 4)
    ([1.0, 5.0], 2.0)
    """

    loc: Tensor
    matrix: Tensor
    _cache: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        _, volume = self._inverse()
        return self.loc.to(s) + s @ self.matrix.to(s).T, volume.to(s).expand(s.shape[:-1])

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        inverse, volume = self._inverse()
        return (t - self.loc.to(t)) @ inverse.to(t).T, -volume.to(t).expand(t.shape[:-1])

    def tensors(self) -> dict[str, Tensor]:
        return {"loc": self.loc, "matrix": self.matrix}

    def _inverse(self) -> tuple[Tensor, Tensor]:
        if not self._cache:
            self._cache.append((torch.linalg.inv(self.matrix), torch.linalg.slogdet(self.matrix)[1]))
        return self._cache[0]


@dataclass(frozen=True)
class Triangular(Mixing):
    r"""Each coordinate given the earlier ones: :math:`t_i = \mu_i(z) + e^{\ell_i(z)} s_i`, ``z`` the standardised earlier ``t``.

    :math:`\mu_i` is linear plus a few products, :math:`\ell_i` linear with a few bends: a correlated Gaussian, a banana, a
    funnel and a hierarchical model all become independent columns. Along ``order`` the map is triangular, so the distribution of the first k columns is that
    of the first k coordinates.

    Attributes:
        order: coordinate ``order[k]`` is the k-th, shape (m,).
        loc, scale: what standardises the ``t``, in order, shape (m,).
        intercept, slope: of the means, in units of ``scale``, shapes (m,) and (m, m), strictly lower triangular.
        log_intercept, log_slope: of the log scales, likewise.
        pairs: rows ``(i, j, k)``: the mean of i has a term u_j u_k, shape (p, 3), sorted by i, with the columns u of
            :func:`.regression.expand`.
        weights: their coefficients, shape (p,).
        hinges: rows ``(i, j, c)``: the log scale of i bends at knot c of z_j, shape (h, 3), sorted by i.
        hinge_weights: their coefficients, shape (h,).

    References:
        Marzouk, Moselhy, Parno, Spantini, Sampling via measure transport: an introduction (2016).

    >>> generator = torch.Generator().manual_seed(0)
    >>> s = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    >>> banana = torch.stack([s[:, 0], s[:, 0] ** 2 + 0.1 * s[:, 1]], 1)
    >>> mixing, _ = Triangular.fit(banana, torch.ones(2, dtype=torch.bool), torch.arange(2))
    >>> [row.tolist() for row in mixing.pairs], bool(mixing.inverse(banana)[0].T.cov()[0, 1].abs() < 0.05)
    ([[1, 0, 0]], True)
    """

    order: Tensor
    loc: Tensor
    scale: Tensor
    intercept: Tensor
    slope: Tensor
    log_intercept: Tensor
    log_slope: Tensor
    pairs: Tensor
    weights: Tensor
    hinges: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.long))
    hinge_weights: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        columns: list[Tensor] = []
        total = s.new_zeros(s.shape[:-1])
        for i in range(len(self.order)):
            mean, log_scale = self.row(i, columns, s)
            columns.append(mean + log_scale.exp() * s[..., i])
            total = total + log_scale
        t = torch.empty_like(s)
        t[..., self.order] = self.loc.to(s) + self.scale.to(s) * torch.stack(columns, -1)
        return t, total + self.scale.log().sum().to(s)

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        z = (t[..., self.order] - self.loc.to(t)) / self.scale.to(t)
        mean, log_scale = self.rows(z)
        return (z - mean) * torch.exp(-log_scale), -log_scale.sum(-1) - self.scale.log().sum().to(t)

    def rows(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log scales of all coordinates at once.

        Args:
            z: standardised, in order, shape (..., m).

        Returns:
            Both of that shape.
        """
        mean = self.intercept.to(z) + z @ self.slope.to(z).T
        if len(self.weights):
            near = tame(z)
            pairs = self.pairs.to(z.device)
            terms = expand(near, pairs[:, 1]) * expand(near, pairs[:, 2]) * self.weights.to(z)
            mean = mean.index_add(-1, pairs[:, 0], terms)
        log_scale = self.log_intercept.to(z) + tame(z) @ self.log_slope.to(z).T
        if len(self.hinge_weights):
            hinges = self.hinges.to(z.device)
            knots = torch.tensor(KNOTS, dtype=z.dtype, device=z.device)[hinges[:, 2]]
            bends = hinge(tame(z)[..., hinges[:, 1]] - knots) * self.hinge_weights.to(z)
            log_scale = log_scale.index_add(-1, hinges[:, 0], bends)
        return mean, log_scale

    def standardised(self, shift: Tensor, scale: Tensor) -> Triangular:
        """The same map from columns ``s`` that are shifted and scaled to the new ones.

        Args:
            shift: shape (m,); it is one of the intercepts only where the scale is constant, and there alone it is taken.
            scale: shape (m,), positive.
        """
        constant = (self.log_slope == 0).all(1)
        moved = torch.where(constant, shift * self.log_intercept.exp(), 0.0)
        return replace(self, intercept=self.intercept + moved, log_intercept=self.log_intercept + scale.log())

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _terms(self) -> list[tuple[list[int], list[int], list[int], list[int]]]:
        """Of every row: the columns in its mean, those in its log scale, and the numbers of its products and bends.

        Most coefficients are zero: along a chain a row has one or two.
        """
        return [
            (
                self.slope[i].nonzero()[:, 0].tolist(),
                self.log_slope[i].nonzero()[:, 0].tolist(),
                (self.pairs[:, 0] == i).nonzero()[:, 0].tolist(),
                (self.hinges[:, 0] == i).nonzero()[:, 0].tolist(),
            )
            for i in range(len(self.order))
        ]

    def row(self, i: int, columns: list[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log scale of the i-th coordinate given the earlier ones.

        Args:
            i: its number in order.
            columns: the earlier ones, standardised, shapes (...).
            like: of the shape (..., m) and kind of the result.
        """
        in_mean, in_scale, products, bends = self._terms[i]
        mean, log_scale = self.intercept[i].to(like), self.log_intercept[i].to(like)
        if in_mean:
            mean = mean + torch.stack([columns[j] for j in in_mean], -1) @ self.slope[i, in_mean].to(like)
        for p in products:
            _, j, k = self.pairs[p].tolist()
            mean = mean + self.weights[p].to(like) * self._expanded(columns, j) * self._expanded(columns, k)
        if in_scale:
            near = tame(torch.stack([columns[j] for j in in_scale], -1))
            log_scale = log_scale + near @ self.log_slope[i, in_scale].to(like)
        for h in bends:
            _, j, c = self.hinges[h].tolist()
            log_scale = log_scale + self.hinge_weights[h].to(like) * hinge(tame(columns[j]) - KNOTS[c])
        return mean, log_scale.expand(like.shape[:-1])

    def _expanded(self, columns: list[Tensor], index: int) -> Tensor:
        """Column ``index`` of :func:`.regression.expand` from the earlier columns alone."""
        dim = len(self.order)
        if index < dim:
            return tame(columns[index])
        if index == dim:
            return torch.ones_like(columns[0])
        column, knot = divmod(index - dim - 1, len(KNOTS))
        return hinge(tame(columns[column]) - KNOTS[knot])

    @classmethod
    def fit(cls, points: Tensor, movable: Tensor, order: Tensor) -> tuple[Triangular, float]:
        """Means and scales of every coordinate given the earlier ones; see :func:`.regression.fit_row`.

        Args:
            points: draws ``t``, shape (N, m).
            movable: which coordinates take part, shape (m,); the others stay, and are not looked at.
            order: in which they are given, a permutation, shape (m,).

        Returns:
            The map, and the log-likelihood of the draws per draw less half a logarithm of N per coefficient and draw.
        """
        count, dim = points.shape
        loc, scale = points.median(0).values, points.std(0).clamp_min(1e-12)
        loc, scale = torch.where(movable, loc, 0.0)[order], torch.where(movable, scale, 1.0)[order]
        z = (points[:, order] - loc) / scale
        takes_part = movable[order]
        rows = takes_part.nonzero()[:, 0].tolist()
        fitted = [fit_row(z[:, i], z[:, rows[:k]]) for k, i in enumerate(rows)]
        shared = shared_scales([row.log_residual for row in fitted], z[:, rows])
        if shared:
            fitted = [fit_row(z[:, i], z[:, rows[:k]], [j for j in shared if j < k]) for k, i in enumerate(rows)]
        slope, log_slope = points.new_zeros(dim, dim), points.new_zeros(dim, dim)
        intercept, log_intercept = points.new_zeros(dim), points.new_zeros(dim)
        pairs: list[tuple[int, int, int]] = []
        hinges: list[tuple[int, int, int]] = []
        weights: list[float] = []
        hinge_weights: list[float] = []
        score = -float(scale.log().sum())
        for i, row in zip(rows, fitted, strict=True):
            earlier = takes_part[:i].nonzero()[:, 0]
            intercept[i], log_intercept[i] = row.intercept, row.log_intercept
            slope[i, earlier], log_slope[i, earlier] = row.slope, row.log_slope
            # Of all columns, as expand numbers them, what the row knows among the earlier ones.
            bent = dim + 1 + len(KNOTS) * earlier[:, None] + torch.arange(len(KNOTS))
            column = torch.cat([earlier, torch.tensor([dim]), bent.flatten()])
            pairs += [(i, int(column[j]), int(column[k])) for j, k in row.pairs]
            weights += row.weights
            hinges += [(i, int(earlier[j]), c) for j, c in row.hinges]
            hinge_weights += row.hinge_weights
            score += row.log_likelihood - 0.5 * math.log(count) * row.num_coefficients / count
        products, bends = (
            torch.tensor(terms, dtype=torch.long, device=points.device).view(-1, 3) for terms in (pairs, hinges)
        )
        made = cls(
            order, loc, scale, intercept, slope, log_intercept, log_slope, products, points.new_tensor(weights), bends,
            points.new_tensor(hinge_weights),
        )  # fmt: skip
        return made, score


def tame(z: Tensor) -> Tensor:
    """Standardised coordinates as products and log scales see them: bounded, or far draws would overflow."""
    return z.clamp(-REACH, REACH)
