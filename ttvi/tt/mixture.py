"""The mixture of a squared train and a product reference: log-density, draws of the reference, moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import Basis
from .squared import SquaredTrain

__all__ = ["Mixture", "one_moment"]


@dataclass(frozen=True)
class Mixture:
    r"""The density :math:`q = (1 - \gamma)\, g^2 / \lVert g \rVert^2 + \gamma \rho`, with :math:`\gamma` per batch member.

    Points have shape ``(S, B, d)``: S points for each of B densities.

    Attributes:
        square: ``g``; canonical where draws, moments or transports are asked for.
        log_share: logarithm of :math:`\gamma`, shape ``(B,)`` or ``()``; ``-inf`` for the pure square.
    """

    square: SquaredTrain
    log_share: Tensor

    @property
    def pure(self) -> bool:
        """Whether the reference has no weight."""
        return bool((self.log_share == -torch.inf).all())

    @property
    def bases(self) -> list[Basis]:
        """One basis per coordinate, latent modes left out."""
        return [basis for basis in self.square.bases if basis is not None]

    def log_prob(self, x: Tensor, log_norm: Tensor) -> Tensor:
        """Normalised log-density at points ``(S, B, d)``: shape ``(S, B)``; ``-inf`` outside the support.

        Args:
            x: the points.
            log_norm: of the square, :meth:`SquaredTrain.log_norm`: computed once for many blocks of points.
        """
        return self._with_reference(self.square.log_square(x) - log_norm, x.unbind(-1))

    def log_prob_grid(self, grids: Sequence[Tensor]) -> Tensor:
        """Normalised log-density on a product grid, shape ``(g_1, ..., g_d)``; unbatched."""
        columns = [grid.view(-1, *[1] * (len(grids) - 1 - k)) for k, grid in enumerate(grids)]
        return self._with_reference(self.square.log_square_grid(grids) - self.square.log_norm(), columns)

    def _with_reference(self, result: Tensor, columns: Sequence[Tensor]) -> Tensor:
        """The log-density of the mixture from that of the square; coordinates broadcast against it."""
        reference = torch.zeros_like(result)
        inside = torch.ones_like(reference, dtype=torch.bool)
        for basis, column in zip(self.bases, columns, strict=True):
            inside = inside & basis.support.check(column)
            reference = reference + basis.reference_log_prob(column)
        if not self.pure:
            keep = torch.log1p(-self.log_share.exp())
            result = torch.logaddexp(result + keep, reference + self.log_share)
        return torch.where(inside, result, -torch.inf)

    def mixed(self, x: Tensor, batch: int, generator: torch.Generator | None) -> Tensor:
        r"""Draws of the square, a fraction :math:`\gamma` of them replaced by draws of the reference.

        Args:
            x: draws of the square, shape ``(S, B, d)``.
            batch: number of densities.
            generator: source of randomness.
        """
        if self.pure:
            return x
        swap = torch.rand(len(x), batch, dtype=x.dtype, device=x.device, generator=generator) < self.log_share.exp()
        u = torch.rand(len(x), batch, x.shape[-1], dtype=x.dtype, device=x.device, generator=generator)
        reference = torch.stack([basis.reference_icdf(u[..., k]) for k, basis in enumerate(self.bases)], -1)
        return torch.where(swap.unsqueeze(-1), reference, x)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means ``(B, d)`` and second moments ``(B, d, d)``."""
        mean, second = self.square.moments()
        share = self.log_share.exp().reshape(-1, 1)
        moments = [basis.reference_moments() for basis in self.bases]
        first = mean.new_tensor([m[0] for m in moments])
        reference = torch.outer(first, first)
        reference.diagonal().copy_(mean.new_tensor([m[1] for m in moments]))
        mean = (1 - share) * mean + share * first
        return mean, (1 - share).unsqueeze(-1) * second + share.unsqueeze(-1) * reference


def one_moment(mixture: Mixture, power: int) -> Tensor:
    r"""The moment :math:`E[x^p]` of a one-dimensional mixture, shape ``(B,)``: quadratic form of the multiplication matrix."""
    square = mixture.square
    (k,) = square.coordinates
    basis = square.bases[k]
    assert basis is not None
    matrix = basis.multiplication(power).to(square.train.cores[k])
    state = square.train.cores[0].new_ones(1, 1, 1)
    for j, core in enumerate(square.train.cores[: k + 1]):
        half = state.unsqueeze(-3) @ core.transpose(-3, -2)  # (B, n, r, s)
        if j < k:
            state = core.flatten(-3, -2).mT @ half.transpose(-3, -2).flatten(-3, -2)
    gram = torch.einsum("...rns,...mrs->...nm", core, half)
    value = (gram * matrix).sum((-2, -1)) / gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    share = mixture.log_share.exp()
    if not bool((share > 0).any()):
        return value
    return (1 - share) * value + share * _reference_moment(basis, power)


def _reference_moment(basis: Basis, power: int) -> float:
    """From the quantile function of a logistic variable, where the trapezoidal rule is spectrally accurate."""
    if basis.discrete:
        return float((basis.nodes() ** power).mean())
    step = 0.2
    t = step * torch.arange(-300, 301, dtype=torch.float64)
    x = basis.reference_icdf(torch.sigmoid(t))
    return float((x**power * torch.sigmoid(t) * torch.sigmoid(-t)).sum() * step)
