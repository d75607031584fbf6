"""The population moved on in the coordinates that it suggests, where necks and bends are straight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import Candidate
from .chart import Chart
from .coordinates import Coordinates, Pullback
from .moves import Population, differential, exchange, hamiltonian
from .reference import Spread

__all__ = ["Latent", "Moved", "equilibrate", "independent"]

AHEAD = 0.5  # inverse temperature of the population that goes ahead


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


def independent(
    candidate: Candidate, points: Tensor, values: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Independence Metropolis-Hastings moves to the draws by which a density was judged; they cost nothing more.

    Args:
        candidate: the density and its weighted draws, shape (M, m): each point is offered M / N of them in turn.
        points: of the population, shape (N, m).
        values: log p̃ there, shape (N,).
        generator: source of randomness.

    Returns:
        The population and its values.

    References:
        Tierney, Markov chains for exploring posterior distributions (1994).
    """
    draws = candidate.assessment
    with torch.no_grad():
        w, slope = candidate.chart.from_t(points)
        weights = values - candidate.density.log_prob(w) - slope
        t, outer = candidate.chart.to_t(draws.points)
        fresh = draws.log_weights + candidate.density.log_prob(draws.points) - outer
    points, values, weights = points.clone(), values.clone(), weights.nan_to_num(math.inf)
    for block in torch.arange(len(t)).split(len(points)):
        who = torch.randperm(len(points), generator=generator)[: len(block)]
        u = torch.rand(len(block), generator=generator, dtype=values.dtype).log()
        yes = (u < draws.log_weights[block] - weights[who]) & torch.isfinite(fresh[block])
        points[who[yes]], values[who[yes]] = t[block[yes]], fresh[block[yes]]
        weights[who[yes]] = draws.log_weights[block[yes]]
    return points, values


@dataclass(frozen=True)
class Moved:
    """What two populations became.

    Attributes:
        points: that of the target after every sweep, the last one first, shape (sweeps · N, m).
        values: log p̃ there.
        ahead: likewise the tempered one.
    """

    points: Tensor
    values: Tensor
    ahead: Tensor


def equilibrate(
    target: Pullback,
    chart: Chart,
    points: Tensor,
    ahead: Tensor,
    sweeps: int,
    generator: torch.Generator,
    *,
    factor: Tensor | None = None,
) -> Moved:
    """Moves of a population that keep the target's distribution, in the columns of a chart fitted to it.

    In a neck or along a bent ridge moves in the user's coordinates are as short as the narrowest place; in columns that
    are nearly independent they are as long as the target. A chart fitted to points that end before the neck does points
    into it, so that to fit and to move in turn walks down a neck that no start reached. A second population, tempered
    towards wide independent columns, goes ahead, and the two exchange points.

    Args:
        target: the log-density of ``t``.
        chart: fitted to the points.
        points: shape (N, m).
        ahead: of the tempered population, shape (N, m).
        sweeps: how many; each costs four evaluations per point, and some twelve more with gradients.
        generator: source of randomness.
        factor: of the covariance of a local maximum, in ``t``, for further trajectories in the user's own coordinates.

    References:
        Parno, Marzouk, Transport map accelerated Markov chain Monte Carlo (2018).
        Karamanis et al., Accelerating astronomical and cosmological inference with preconditioned Monte Carlo (2022).
    """
    latent = Latent(target, chart)
    reference = Spread(target.coordinates.line)
    populations = []
    for t, beta in ((points, 1.0), (ahead, AHEAD)):
        z = latent.from_t(t)
        populations.append(Population(reference, z, latent(z), reference.log_prob(z), beta=beta))
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(sweeps):
        for population in populations:
            differential(population, latent, generator)
            differential(population, latent, generator)
            if latent.gradient is not None:
                hamiltonian(population, latent, generator)
        if factor is not None:
            _in_place(target, latent, populations[0], factor, generator)
        exchange(populations[0], populations[1], generator)
        t, volume = latent.to_t(populations[0].points)
        history.append((t, populations[0].values - volume, latent.to_t(populations[1].points)[0]))
    return Moved(*(torch.cat(part) for part in zip(*history[::-1], strict=True)))


def _in_place(
    target: Pullback, latent: Latent, population: Population, factor: Tensor, generator: torch.Generator
) -> None:
    """A trajectory of the same points in ``t``, preconditioned by a covariance there."""
    t, volume = latent.to_t(population.points)
    moved = Population(
        population.reference, t, population.values - volume, 0.0 * volume, beta=1.0, other_step=population.other_step
    )
    hamiltonian(moved, target, generator, factor=factor)
    population.other_step = moved.other_step
    population.points = latent.from_t(moved.points)
    population.values = moved.values + latent.to_t(population.points)[1]
    population.anchors = population.reference.log_prob(population.points)
