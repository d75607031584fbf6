"""A map that is affine in most coordinates, given the few that their scales depend on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from .mixing import Mixing

__all__ = ["ConditionallyAffine"]


@dataclass(frozen=True)
class ConditionallyAffine(Mixing):
    r"""Leading coordinates :math:`\theta` shifted and scaled; the others Gaussian given these.

    .. math:: \theta = \mathrm{loc} + \mathrm{scale} \cdot s_{1..k}, \qquad
              x = \mu(\theta) + K(\theta)^{-1} s_{k+1..m}, \qquad K = D\,(I - B)

    with :math:`D` diagonal and positive, :math:`B` strictly lower triangular, so that
    :math:`x_i = \mu_i + \sum_{j<i} B_{ij} (x_j - \mu_j) + s_i / D_i`. The tables of
    :math:`\mu, \log D, B` over an even grid of the leading ``s`` are interpolated by cubics, and continued by straight lines.
    In a hierarchical model the leading coordinates are the hyperparameters, and a neck is as wide as anything else.

    Attributes:
        order: coordinate ``order[c]`` is column c, the leading ones first, shape (m,).
        loc, scale: of the leading coordinates, shape (k,).
        lower: first node of the grid of every leading column, shape (k,).
        step: between nodes, shape (k,).
        counts: nodes of every leading column, at least two, shape (k,).
        mean: shape (G, m - k), G the product of the counts, the last one fastest.
        log_diagonal: log D, likewise.
        index: rows and columns of the entries of B that are not zero everywhere, sorted, shape (e, 2).
        entries: shape (G, e).

    References:
        Rue, Martino and Chopin, "Approximate Bayesian inference for latent Gaussian models by using integrated nested
        Laplace approximations" (2009).
        Keys, "Cubic convolution interpolation for digital image processing" (1981).

    >>> funnel = ConditionallyAffine(
    ...     torch.tensor([1, 0]), torch.zeros(1), torch.ones(1), torch.tensor([-8.0]), torch.tensor([1.0]), torch.tensor([17]),
    ...     torch.zeros(17, 1), -0.5 * torch.arange(-8.0, 9.0)[:, None], torch.zeros(0, 2).long(), torch.zeros(17, 0))
    >>> t, log_det = funnel.forward(torch.tensor([2.0, 1.0]))
    >>> t.tolist(), float(log_det)  # x = exp(v/2) s
    ([2.7182817459106445, 2.0], 1.0)
    """

    order: Tensor
    loc: Tensor
    scale: Tensor
    lower: Tensor
    step: Tensor
    counts: Tensor
    mean: Tensor
    log_diagonal: Tensor
    index: Tensor
    entries: Tensor

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        lead = len(self.loc)
        mean, log_diagonal, entries = self._tables(s[..., :lead])
        noise = s[..., lead:] * torch.exp(-log_diagonal)
        columns: list[Tensor] = []
        for i, (first, last) in enumerate(self._rows):
            value = noise[..., i]
            if last > first:
                earlier = torch.stack([columns[j] for j in self._columns[first:last]], -1)
                value = value + (entries[..., first:last] * earlier).sum(-1)
            columns.append(value)
        t = torch.empty_like(s)
        t[..., self.order[:lead]] = self.loc.to(s) + self.scale.to(s) * s[..., :lead]
        t[..., self.order[lead:]] = mean + torch.stack(columns, -1)
        return t, self.scale.log().sum().to(s) - log_diagonal.sum(-1)

    def inverse(self, t: Tensor) -> tuple[Tensor, Tensor]:
        lead = len(self.loc)
        leading = (t[..., self.order[:lead]] - self.loc.to(t)) / self.scale.to(t)
        mean, log_diagonal, entries = self._tables(leading)
        centred = t[..., self.order[lead:]] - mean
        index = self.index.to(t.device)
        explained = torch.zeros_like(centred).index_add(-1, index[:, 0], entries * centred[..., index[:, 1]])
        s = torch.cat([leading, (centred - explained) * torch.exp(log_diagonal)], -1)
        return s, log_diagonal.sum(-1) - self.scale.log().sum().to(t)

    def standardised(self, loc: Tensor, scale: Tensor) -> ConditionallyAffine:
        """The same map from columns of their own scale, the leading ones of their own location too.

        Args:
            loc: of the columns ``s``, shape (m,).
            scale: positive, shape (m,).
        """
        lead = len(self.loc)
        shift, unit = loc[:lead], scale[:lead]
        return replace(
            self, loc=self.loc + self.scale * shift, scale=self.scale * unit, lower=(self.lower - shift) / unit,
            step=self.step / unit, log_diagonal=self.log_diagonal - scale[lead:].log(),
        )  # fmt: skip

    def given(self, leading: Tensor, free: Tensor) -> ConditionallyAffine:
        """The tables at some leading columns, over the grid of the others; ``order`` stays as it is.

        Args:
            leading: all the leading columns, shape (k,); those that stay are not looked at.
            free: numbers of the ones that stay, shape (k',).
        """
        table = self._table.view(*self.counts.tolist(), -1)
        stay = set(free.tolist())
        for k in range(len(self.loc) - 1, -1, -1):
            if k not in stay:
                nodes, weights = self._around(k, leading[None])
                table = torch.tensordot(weights[0], table.index_select(k, nodes[0]), dims=([0], [k]))
        size = self.mean.shape[1]
        mean, log_diagonal, entries = table.reshape(-1, table.shape[-1]).split((size, size, len(self.index)), 1)
        return replace(
            self, loc=self.loc[free], scale=self.scale[free], lower=self.lower[free], step=self.step[free],
            counts=self.counts[free], mean=mean, log_diagonal=log_diagonal, entries=entries,
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _tables(self, leading: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, log diagonals and entries at leading columns (..., k)."""
        flat = leading.reshape(-1, len(self.loc))
        nodes = flat.new_zeros(len(flat), 1, dtype=torch.long)
        weights = flat.new_ones(len(flat), 1)
        for k, count in enumerate(self.counts.tolist()):
            four, shares = self._around(k, flat)
            nodes = (nodes[:, :, None] * count + four[:, None]).flatten(1)
            weights = (weights[:, :, None] * shares[:, None]).flatten(1)
        table = self._table.to(flat)
        found = torch.nn.functional.embedding_bag(nodes, table, per_sample_weights=weights, mode="sum")
        found = found.view(*leading.shape[:-1], table.shape[1])
        size = self.mean.shape[1]
        return found[..., :size], found[..., size : 2 * size], found[..., 2 * size :]

    def _around(self, k: int, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Four nodes of leading column k around points (N, k), and their weights, both (N, 4)."""
        count = int(self.counts[k])
        place = (flat[:, k] - self.lower[k].to(flat)) / self.step[k].to(flat)
        cell = place.detach().floor().clamp(0, count - 2)
        nodes = (cell[:, None].long() + torch.arange(-1, 3, device=flat.device)).clamp(0, count - 1)
        return nodes, _cubic(place - cell, cell, count)

    @cached_property
    def _table(self) -> Tensor:
        return torch.cat([self.mean, self.log_diagonal, self.entries], 1)

    @cached_property
    def _rows(self) -> list[tuple[int, int]]:
        """Of every row of B, where its entries begin and end."""
        counts = torch.bincount(self.index[:, 0], minlength=self.mean.shape[1])
        ends = counts.cumsum(0)
        return list(zip((ends - counts).tolist(), ends.tolist(), strict=True))

    @cached_property
    def _columns(self) -> list[int]:
        return self.index[:, 1].tolist()


def _cubic(u: Tensor, cell: Tensor, count: int) -> Tensor:
    """Weights of the nodes at -1, 0, 1, 2 from a cell, shape (N,) to (N, 4): once continuously differentiable, lines outside.

    The node before the first and the one after the last lie on the line through the two next to them.
    """
    squared, cubed = u * u, u * u * u
    before, after = 0.5 * (2 * squared - u - cubed), 0.5 * (cubed - squared)
    first, last = cell == 0, cell == count - 2
    outside = (u < 0) | (u > 1)
    here = 1 - 2.5 * squared + 1.5 * cubed + torch.where(first, 2 * before, 0.0) - torch.where(last, after, 0.0)
    there = 0.5 * u + 2 * squared - 1.5 * cubed + torch.where(last, 2 * after, 0.0) - torch.where(first, before, 0.0)
    before, after = torch.where(first, 0.0, before), torch.where(last, 0.0, after)
    straight = torch.stack([torch.zeros_like(u), 1 - u, u, torch.zeros_like(u)], -1)
    return torch.where(outside[:, None], straight, torch.stack([before, here, there, after], -1))
