"""A train on the part of its columns that holds the target's mass: what it spends further out is its error alone."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..tt.basis import Legendre
from ..tt.density import TTDensity
from ..tt.rebase import rebase
from .stretch import Stretch

__all__ = ["bounds_of_mass", "truncated"]

NEGLIGIBLE = 1e-6  # share of the weights beyond a bound
MARGIN = 1.5  # further out than the last draw with weight, in deviations of a column with normal tails
HEAVY_MARGIN = 4.0  # where the tails are heavy, in deviations of the column that the sinh has made of them
LONGER = math.log(3.0)
HEAVY = 0.7  # exponent from which on they are


def truncated(density: TTDensity, lower: Tensor, upper: Tensor) -> TTDensity:
    """The density given that every column lies within bounds: exact, a polynomial is one on a part of its interval too.

    Args:
        density: of columns in Legendre bases where there are bounds.
        lower, upper: shape (m,); a column whose bounds are not within its interval stays as it is.

    >>> bases = [Legendre(-1.0, 1.0, size=16)] * 2
    >>> density = TTDensity.fit(lambda w: -8 * w.square().sum(1), bases, seed=0)
    >>> half = truncated(density, torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0]))
    >>> w = torch.tensor([[0.3, -0.2], [-0.3, 0.2]], dtype=torch.float64)
    >>> [round(v, 4) for v in (half.log_prob(w) - density.log_prob(w)).exp().tolist()]  # half of the mass
    [2.0, 0.0]
    """
    bases = []
    for basis, low, high in zip(density.bases, lower.tolist(), upper.tolist(), strict=True):
        if isinstance(basis, Legendre) and (low > basis.lower or high < basis.upper):
            basis = Legendre(max(low, basis.lower), min(high, basis.upper), size=basis.size)
        bases.append(basis)
    return TTDensity(rebase(density.train, density.bases, bases), bases, info=density.info)


def bounds_of_mass(stretch: Stretch, w: Tensor, log_weights: Tensor, *, further: float = 0.0) -> tuple[Tensor, Tensor]:
    """Where the weights of draws end, column by column, and a margin for those that were not drawn.

    Args:
        stretch: what the columns come from; only stretched ones get bounds.
        w: draws, shape (N, m).
        log_weights: shape (N,).
        further: more of a margin, in the same deviations; less where tails are heavy.

    Returns:
        Lower and upper bounds in [-1, 1], shape (m,) each.
    """
    weights = torch.softmax(log_weights, 0)
    margin = torch.where(stretch.exponents > HEAVY, HEAVY_MARGIN, MARGIN)
    # Beyond a sinh a deviation may be orders of magnitude: there no more than what makes the column so many times as long.
    margin = margin + (LONGER / stretch.exponents.clamp_min(1e-12)).clamp_max(further)
    free = stretch.fixed | stretch.native | stretch.ending
    # Deviations of a column before its sinh, which a heavy tail needs as little of as a normal one.
    plain = replace(stretch, exponents=torch.zeros_like(stretch.exponents))
    ends = []
    for sign in (-1.0, 1.0):
        outward, order = (sign * w).sort(0, descending=True)
        beyond = weights[order].cumsum(0) > NEGLIGIBLE
        last = sign * outward.gather(0, beyond.to(torch.int64).argmax(0)[None])[0]
        v = plain.forward(last)[0]
        end = plain.inverse(torch.where(free, v, v + sign * margin))[0]
        ends.append(torch.where(free, sign * torch.inf, end))
    return ends[0], ends[1]
