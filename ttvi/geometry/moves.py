"""A tempered population and the moves that keep its distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .coordinates import Coordinates
from .reference import Reference, Spread

__all__ = ["LogDensity", "Population", "differential", "exchange", "hamiltonian"]

ESS_STEP = 0.6
STEPS = 8
TARGET_ACCEPTANCE = 0.75


class LogDensity(Protocol):
    """What moves need to know: kinds of the coordinates, values, and gradients if there are any."""

    @property
    def coordinates(self) -> Coordinates:
        """What kind each coordinate is."""

    def __call__(self, t: Tensor, /) -> Tensor:
        """Log-densities (N,) of points (N, m)."""

    def value_and_gradient(self, t: Tensor, /) -> tuple[Tensor, Tensor]:
        """Values (N,) and gradients (N, m)."""


@dataclass
class Population:
    r"""Points distributed as :math:`\rho^{1-\beta}\,\tilde p^{\,\beta}`.

    Attributes:
        points, values, anchors: points (N, m), log p̃ and log ρ there (N,).
        beta: the temperature.
        log_evidence: log ∫ of the tempered density.
        step: of the Hamiltonian moves, adapted.
        other_step: of those with a covariance that is given.
    """

    reference: Reference | Spread
    points: Tensor
    values: Tensor
    anchors: Tensor
    beta: float = 0.0
    log_evidence: float = 0.0
    rounds: int = 0
    acceptance: float = 0.0
    step: float = 0.3
    other_step: float = 0.3

    @classmethod
    def draw(
        cls, reference: Reference, target: LogDensity, count: int, generator: torch.Generator, *, seeds: Tensor
    ) -> Population:
        """Draws of the reference (``seeds`` are only evaluated, they are in the reference already)."""
        points = reference.sample(count, generator)
        return cls(reference, points, target(points), reference.log_prob(points))

    @property
    def log_density(self) -> Tensor:
        """The tempered log-density of the points."""
        return (1 - self.beta) * self.anchors + _scaled(self.values, self.beta)

    def cool(self, generator: torch.Generator) -> None:
        """Raise beta until the weights keep a share of their effective size, then resample."""
        ratio = self.values - self.anchors
        usable = torch.isfinite(ratio)

        def weights(delta: float) -> Tensor:
            return torch.where(usable, delta * ratio, -math.inf)

        low, high = 0.0, 1.0 - self.beta
        floor = ESS_STEP * max(1, int(usable.sum()))
        if _ess(weights(high)) < floor:
            for _ in range(50):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if _ess(weights(middle)) >= floor else (low, middle)
            high = max(low, 1e-9)
        log_weights = weights(high)
        self.log_evidence += float(torch.logsumexp(log_weights, 0)) - math.log(len(log_weights))
        self.beta = min(1.0, self.beta + high)
        if 1 - self.beta < 1e-6:
            self.beta = 1.0
        kept = _systematic(torch.softmax(log_weights, 0), generator)
        self.points, self.values, self.anchors = self.points[kept], self.values[kept], self.anchors[kept]
        self.rounds += 1

    def accept(
        self, points: Tensor, values: Tensor, anchors: Tensor, log_ratio: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Metropolis: replace the points where accepted, and say where."""
        u = torch.rand(len(points), generator=generator, dtype=points.dtype).log()
        yes = u < log_ratio
        self.points = torch.where(yes[:, None], points, self.points)
        self.values = torch.where(yes, values, self.values)
        self.anchors = torch.where(yes, anchors, self.anchors)
        return yes


def differential(population: Population, target: LogDensity, generator: torch.Generator) -> None:
    """One differential-evolution move of every point: a difference of two others, on a random subset of coordinates.

    The population moves in two halves, each with differences of the other, which keeps the density invariant. Every tenth
    move takes the whole difference, which carries a point from mode to mode. Finite coordinates copy another point's value.

    References:
        ter Braak, A Markov chain Monte Carlo version of the genetic algorithm Differential Evolution (2006).
    """
    coordinates, points = target.coordinates, population.points
    count, dim = points.shape
    order = torch.randperm(count, generator=generator)
    halves = order[: count // 2], order[count // 2 :]
    accepted = 0.0
    for mine, other in (halves, halves[::-1]):
        if not len(mine) or len(other) < 2:
            continue
        points = population.points
        pair = torch.stack([other[torch.randint(len(other), (len(mine),), generator=generator)] for _ in range(2)])
        share = torch.tensor([1.0, 0.5, 0.2])[torch.randint(3, (len(mine), 1), generator=generator)]
        chosen = torch.rand(len(mine), dim, generator=generator) < share
        chosen[torch.arange(len(mine)), torch.randint(dim, (len(mine),), generator=generator)] = True
        active = (chosen & (coordinates.sizes == 0)).sum(1, keepdim=True).clamp_min(1)
        gamma = 2.38 / (2.0 * active).sqrt() * (0.5 + torch.rand(len(mine), 1, generator=generator))
        gamma = torch.where(torch.rand(len(mine), 1, generator=generator) < 0.1, torch.ones_like(gamma), gamma).to(
            points
        )
        difference = points[pair[0]] - points[pair[1]]
        noise = 1e-4 * torch.randn(len(mine), dim, generator=generator, dtype=points.dtype) * difference.abs()
        moved = coordinates.wrap(points[mine] + torch.where(chosen, gamma * difference + noise, 0.0))
        finite = (coordinates.sizes > 0) & chosen
        uniform = (torch.rand(len(mine), dim, generator=generator, dtype=points.dtype) * coordinates.sizes).floor()
        moved = torch.where(finite, uniform, torch.where(coordinates.sizes > 0, points[mine], moved))
        part = Population(
            population.reference, points[mine], population.values[mine], population.anchors[mine], population.beta
        )
        values, anchors = target(moved), population.reference.log_prob(moved)
        new = (1 - population.beta) * anchors + _scaled(values, population.beta)
        yes = part.accept(moved, values, anchors, new - part.log_density, generator)
        for name in ("points", "values", "anchors"):
            whole = getattr(population, name).clone()
            whole[mine] = getattr(part, name)
            setattr(population, name, whole)
        accepted += float(yes.double().sum())
    population.acceptance = accepted / count


def hamiltonian(
    population: Population, target: LogDensity, generator: torch.Generator, *, factor: Tensor | None = None
) -> None:
    """One Hamiltonian trajectory of every point, preconditioned by the population's covariance on the lines and circles.

    Args:
        population: is moved.
        target: the log-density.
        generator: source of randomness.
        factor: of another covariance, shape (m, m), lower triangular: that of a local maximum, say, which a population in
            disorder does not know. It has a step of its own.

    References:
        Neal, MCMC using Hamiltonian dynamics (2011).
    """
    points = population.points
    count, dim = points.shape
    own = factor is None
    if factor is None:
        factor = _preconditioner(
            points, target.coordinates.sizes == 0, target.coordinates.circle, target.coordinates.bounds[1]
        )
    step = population.step if own else population.other_step
    length = int(torch.randint(STEPS // 2, STEPS + 1, (), generator=generator))
    noise = torch.randn(count, dim, generator=generator, dtype=points.dtype)
    jitter = step * (0.8 + 0.4 * torch.rand(count, 1, generator=generator, dtype=points.dtype))

    def force(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values, slopes = target.value_and_gradient(t)
        with torch.enable_grad():
            leaf = t.detach().requires_grad_(True)
            anchors = population.reference.log_prob(leaf)
            (pull,) = torch.autograd.grad(anchors.sum(), leaf)
        anchors = anchors.detach()
        total = (1 - population.beta) * pull + population.beta * slopes
        return values, anchors, (1 - population.beta) * anchors + _scaled(values, population.beta), total @ factor

    t, momentum = points, noise
    _, _, before, slope = force(t)
    before = before - 0.5 * noise.square().sum(1)
    for _ in range(length):
        momentum = momentum + 0.5 * jitter * slope
        t = t + jitter * (momentum @ factor.T)
        values, anchors, after, slope = force(t)
        momentum = momentum + 0.5 * jitter * slope
    after = after - 0.5 * momentum.square().sum(1)
    yes = population.accept(
        target.coordinates.wrap(t), values, anchors, (after - before).nan_to_num(-math.inf), generator
    )
    step = min(1.5, max(1e-4, step * math.exp(float(yes.double().mean()) - TARGET_ACCEPTANCE)))
    if own:
        population.step = step
    else:
        population.other_step = step


def exchange(one: Population, other: Population, generator: torch.Generator) -> None:
    """Pairs of points of two temperatures change places with the probability that keeps both distributions; costs nothing.

    References:
        Geyer, Markov chain Monte Carlo maximum likelihood (1991).
    """
    partner = torch.randperm(len(other.points), generator=generator)[: len(one.points)]
    mine = torch.arange(len(partner))
    gain = (one.values - one.anchors)[mine] - (other.values - other.anchors)[partner]
    u = torch.rand(len(partner), generator=generator, dtype=gain.dtype).log()
    yes = u < (other.beta - one.beta) * gain.nan_to_num(0.0)
    for name in ("points", "values", "anchors"):
        a, b = getattr(one, name).clone(), getattr(other, name).clone()
        a[mine[yes]], b[partner[yes]] = getattr(other, name)[partner[yes]], getattr(one, name)[mine[yes]]
        setattr(one, name, a)
        setattr(other, name, b)


def _preconditioner(points: Tensor, movable: Tensor, circle: Tensor, period: Tensor) -> Tensor:
    """Lower triangular factor of the shrunk covariance; zero where nothing moves, a tenth of a turn on circles."""
    count, dim = points.shape
    centred = points - points.mean(0)
    covariance = centred.T @ centred / count
    shrink = min(1.0, 2.0 * dim / count)
    covariance = (1 - shrink) * covariance + shrink * torch.diag(covariance.diagonal())
    plain = circle | ~movable
    covariance = torch.where(plain[:, None] | plain[None], 0.0, covariance)
    covariance = covariance + torch.diag(torch.where(circle, (0.1 * period).square(), torch.where(movable, 1e-12, 1.0)))
    factor = torch.linalg.cholesky(covariance + 1e-10 * torch.diag(covariance.diagonal()))
    return torch.where(movable[:, None], factor, 0.0)


def _scaled(values: Tensor, beta: float) -> Tensor:
    return beta * values if beta > 0 else torch.where(torch.isfinite(values), 0.0, -math.inf)


def _ess(log_weights: Tensor) -> float:
    if not bool(torch.isfinite(log_weights).any()):
        return 0.0
    return float((2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)).exp())


def _systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    count = len(weights)
    ladder = (
        torch.arange(count, dtype=weights.dtype) + torch.rand(1, generator=generator, dtype=weights.dtype)
    ) / count
    return torch.searchsorted(weights.cumsum(0), ladder).clamp_max(count - 1)
