"""The population moved on in the coordinates that it suggests, where necks and bends are straight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .chart import Chart
from .coordinates import Coordinates, Pullback
from .moves import Population, differential, hamiltonian
from .reference import Spread

__all__ = ["Latent", "equilibrate"]


@dataclass(frozen=True)
class Latent:
    r"""The log-density of the columns ``s`` of a chart, each at the place of its coordinate, which keeps its kind.

    .. math:: \log \tilde p(M(s)) + \log|\det M'(s)|

    Attributes:
        target: the log-density of ``t``.
        chart: whose mixing it is.
    """

    target: Pullback
    chart: Chart

    @property
    def coordinates(self) -> Coordinates:
        """What kind each coordinate is."""
        return self.target.coordinates

    @property
    def gradient(self) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
        """Of the target; None where there is none."""
        return self.target.gradient

    def to_t(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Columns (N, m) to ``t`` (N, m) and the log-determinant (N,)."""
        return self.chart.mixing.forward(z[:, self.chart.order])

    def from_t(self, t: Tensor) -> Tensor:
        """``t`` (N, m) to columns (N, m)."""
        z = torch.empty_like(t)
        z[:, self.chart.order] = self.chart.mixing.inverse(t)[0]
        return z

    def __call__(self, z: Tensor) -> Tensor:
        t, volume = self.to_t(z)
        return self.target(t) + volume

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values (N,) and gradients (N, m), which are zero where the target's are not finite."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            t, volume = self.to_t(leaf)
            values, slopes = self.target.value_and_gradient(t.detach())
            slopes = torch.where(torch.isfinite(slopes), slopes, 0.0)
            (gradient,) = torch.autograd.grad((t * slopes).sum() + volume.sum(), leaf)
        return values + volume.detach(), gradient


def equilibrate(
    target: Pullback, chart: Chart, points: Tensor, sweeps: int, generator: torch.Generator, *, beta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Moves of a population that keep the target's distribution, in the columns of a chart fitted to it.

    In a neck or along a bent ridge moves in the user's coordinates are as short as the narrowest place; in columns that
    are nearly independent they are as long as the target. A chart fitted to points that end before the neck does points
    into it, so that to fit and to move in turn walks down a neck that no start reached.

    Args:
        target: the log-density of ``t``.
        chart: fitted to the points.
        points: shape (N, m).
        sweeps: how many; each costs two evaluations per point, and some six with gradients.
        generator: source of randomness.
        beta: below one the target is tempered towards wide independent columns: a population that goes ahead of the mass.

    Returns:
        The population after every sweep, the last one first, shape (sweeps · N, m), and log p̃ there.

    References:
        Parno, Marzouk, Transport map accelerated Markov chain Monte Carlo (2018).
        Karamanis et al., Accelerating astronomical and cosmological inference with preconditioned Monte Carlo (2022).
    """
    latent = Latent(target, chart)
    reference = Spread(target.coordinates.line)
    z = latent.from_t(points)
    population = Population(reference, z, latent(z), reference.log_prob(z), beta=beta)
    history: list[tuple[Tensor, Tensor]] = []
    for _ in range(sweeps):
        differential(population, latent, generator)
        differential(population, latent, generator)
        if latent.gradient is not None:
            hamiltonian(population, latent, generator)
        t, volume = latent.to_t(population.points)
        history.append((t, population.values - volume))
    found, values = zip(*history[::-1], strict=True)
    return torch.cat(found), torch.cat(values)
