"""Where the mass is: local maxima with their curvature, then a tempered population of points.

The population need not be exact: it tells the trains where to look, and their own weights correct it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from .ascent import ascend, curvature, distinct, newton
from .coordinates import Coordinates, Pullback
from .interval import to_line
from .moves import Population, differential, hamiltonian
from .recombination import recombined
from .reference import Reference

__all__ = ["Cloud", "Exploration", "explore", "laplace_shares", "mean_factor", "unexplored"]

ROUNDS = 2  # of Newton's method: the first finds the curvature of directions a thousand times longer than others
INVERTIBLE = 1e-13  # of the largest curvature, what the smallest must be
SAME = 1e-2  # root mean square of the differences between two finds of one maximum
LOST_SHARE = 0.02  # of the mass around all maxima, by their curvature
NEARBY = 4.0  # times the number of coordinates, of the squared distance: a point there belongs to a maximum
COMPACT = 0.5  # times the deviations by the curvature: what is not normal about a maximum shows further out
RELAXED = 4  # rounds of moves after that
MANY_MAXIMA = 8  # from which on those that were found are hardly the best there are
GENERATION = 20_000  # evaluations of a budget for exploration that allow one round of recombining maxima
START_SCALES = (0.5, 2.0, 8.0, 32.0)


@dataclass(frozen=True)
class Exploration:
    """How much to spend on finding the mass.

    Attributes:
        particles: size of the population.
        ascents: starts of the search for local maxima (with gradients).
        modes: the most local maxima to keep.
        rounds: the most temperatures.
        sweeps: moves of the population at each.
        starts: points of several scales to begin with.
        generations: the most rounds of recombining local maxima.
    """

    particles: int = 1024
    ascents: int = 256
    modes: int = 64
    rounds: int = 60
    sweeps: int = 4
    starts: int = 2048
    generations: int = 8

    @classmethod
    def within(cls, budget: int | None, dim: int, gradient: bool) -> Exploration:
        """The settings for a share of a budget."""
        sweeps = 4 if gradient else 4 + dim // 4  # moves without gradients forget slowly in many dimensions
        if budget is None:
            return cls(ascents=256 if dim <= 32 else 64 if dim <= 64 else 24, sweeps=sweeps)
        particles = int(min(1024, max(32, budget // 100)))
        ascents = min(256, max(4, budget // 600))
        return cls(
            particles, ascents, 64, 60, 4 if budget > 20_000 else 2, int(min(2 * particles, max(2, budget // 3))),
            min(8, budget // GENERATION),
        )  # fmt: skip


@dataclass(frozen=True)
class Cloud:
    """What was found.

    Attributes:
        points: a population spread like the target, in the coordinates ``t``, shape (N, m).
        values: its log-densities, shape (N,).
        modes: local maxima, best first, shape (K, m).
        mode_values: shape (K,).
        precisions: negative Hessians there on the lines, made positive, shape (K, m, m); None without gradients.
        beta: the temperature that the population reached, 1 when all went well.
        log_evidence: rough estimate, nats.
        notes: what happened, in words.
    """

    points: Tensor
    values: Tensor
    modes: Tensor
    mode_values: Tensor
    precisions: Tensor | None
    beta: float
    log_evidence: float
    notes: list[str] = field(default_factory=list)


def explore(
    target: Pullback,
    settings: Exploration,
    generator: torch.Generator,
    *,
    init: Tensor | None = None,
    prior: Tensor | None = None,
) -> Cloud:
    """Local maxima from many starts, then a population tempered from a reference that covers them to the target.

    Args:
        target: the log-density of ``t``.
        settings: how much to spend.
        generator: source of randomness.
        init: points known to matter, shape (k, m).
        prior: draws of a prior, shape (k, m).

    Returns:
        The cloud; a budget that ends early leaves the best population so far.
    """
    coordinates = target.coordinates
    starts = _starts(coordinates, settings.starts, generator, init, prior)
    notes: list[str] = []
    values = target(starts)
    alive = torch.isfinite(values)
    if not bool(alive.any()):
        return Cloud(starts, values, starts[:0], values[:0], None, 0.0, -math.inf, ["no start has any density"])
    starts, values = starts[alive], values[alive]
    named = int(alive[: 0 if init is None else len(init)].sum())
    modes, tops, precisions = starts[:0], values[:0], None
    try:
        if target.gradient is not None and bool(coordinates.line.any() | coordinates.circle.any()):
            modes, tops, precisions = _summits(target, settings, starts, values, named, generator)
            notes.append(f"{len(modes)} local maxima from {min(settings.ascents, len(starts))} starts")
    except BudgetExhausted:
        notes.append("the budget ended during the search for local maxima")
    reference = Reference.around(coordinates, starts, values, modes, tops, precisions, prior)
    seeds = torch.cat([starts[:named], modes])
    try:
        population = Population.draw(reference, target, settings.particles, generator, seeds=seeds)
    except BudgetExhausted:
        notes.append("the budget ended before a population could be drawn")
        return Cloud(starts, values, modes, tops, precisions, 0.0, math.nan, notes)
    factor = mean_factor(coordinates, tops, precisions)
    try:
        while population.beta < 1 and population.rounds < settings.rounds:
            population.cool(generator)
            _stir(population, target, settings, generator, factor)
    except BudgetExhausted:
        notes.append(f"the budget ended at temperature 1/{population.beta:.3g}")
    if precisions is not None and bool(coordinates.line.all()) and population.beta == 1:
        try:
            restored = _restored(population, target, modes, tops, precisions, generator)
            if restored:
                for _ in range(RELAXED):
                    _stir(population, target, settings, generator, factor)
                notes.append(f"{restored} points put back into maxima that the tempered population had lost")
        except BudgetExhausted:
            pass
    points, values = population.points, population.values
    if not len(modes):
        keep = distinct(points, values, points.std(0).clamp_min(1e-12), radius=0.5, limit=min(8, settings.modes))
        modes, tops = points[keep], values[keep]
    notes.append(f"{len(points)} points, {population.rounds} temperatures, acceptance {population.acceptance:.2f}")
    return Cloud(points, values, modes, tops, precisions, population.beta, population.log_evidence, notes)


def unexplored(
    coordinates: Coordinates, generator: torch.Generator, *, init: Tensor | None = None, prior: Tensor | None = None
) -> Cloud:
    """A cloud that nothing was paid for: where the search would have started. Its values are unknown."""
    points = _starts(coordinates, 256, generator, init, prior) if prior is None else prior
    values = torch.zeros_like(points[:, 0])
    return Cloud(
        points, values, points[:0], values[:0], None, 0.0, math.nan, ["the budget ended before the search began"]
    )


def _stir(
    population: Population,
    target: Pullback,
    settings: Exploration,
    generator: torch.Generator,
    factor: Tensor | None = None,
) -> None:
    for _ in range(settings.sweeps):
        differential(population, target, generator)
    if target.gradient is not None:
        hamiltonian(population, target, generator)
        hamiltonian(population, target, generator, factor=factor)


def mean_factor(coordinates: Coordinates, tops: Tensor, precisions: Tensor | None) -> Tensor | None:
    """Factor of the covariance of the mean curvature of the maxima, by their mass; None where there are other than lines.

    In a chain or a lattice bound tightly to its neighbours every mode has about the same curvature, which a thousand points in
    disorder do not show.
    """
    if precisions is None or not len(tops) or not bool(coordinates.line.all()):
        return None
    mean = torch.einsum("k,kij->ij", laplace_shares(tops, precisions), precisions)
    lower, failed = torch.linalg.cholesky_ex(torch.linalg.inv(mean))
    return None if bool(failed) else lower


def _restored(
    population: Population,
    target: Pullback,
    modes: Tensor,
    tops: Tensor,
    precisions: Tensor,
    generator: torch.Generator,
) -> int:
    """Put draws of the normal density around a maximum in place of others where it should have points and has none.

    A population of a thousand that is tempered in many dimensions may drift into one of two modes of equal weight. Returns the
    number of draws.
    """
    factors = torch.linalg.cholesky(torch.linalg.inv(precisions))
    log_volumes = factors.diagonal(dim1=1, dim2=2).log().sum(1)
    # Half by height alone: the curvature at a maximum with a soft direction promises more than there is.
    shares = 0.5 * torch.softmax(tops + log_volumes, 0) + 0.5 * torch.softmax(tops, 0)
    z = torch.einsum("kij,nkj->nki", torch.linalg.inv(factors), population.points[:, None] - modes)
    distance = z.square().sum(-1)
    owner = (shares.log() - log_volumes - 0.5 * distance).argmax(1)
    near = distance.gather(1, owner[:, None])[:, 0] < NEARBY * modes.shape[1]
    have = torch.bincount(owner[near], minlength=len(modes)).to(shares) / len(owner)
    lost = (shares > LOST_SHARE) & (have < 0.5 * shares)
    counts = torch.where(lost, (shares * len(owner)).ceil(), 0.0).long().clamp_max(len(owner) // 2)
    if not bool(lost.any()):
        return 0
    which = torch.repeat_interleave(torch.arange(len(modes)), counts)[: len(owner) // 2]
    noise = torch.randn(len(which), modes.shape[1], 1, generator=generator, dtype=modes.dtype)
    draws = modes[which] + COMPACT * (factors[which] @ noise)[..., 0]
    values = target(draws)
    usable = torch.isfinite(values)
    draws, values = draws[usable], values[usable]
    place = torch.randperm(len(owner), generator=generator)[: len(draws)]
    population.points, population.values = population.points.clone(), population.values.clone()
    population.anchors = population.anchors.clone()
    population.points[place], population.values[place] = draws, values
    population.anchors[place] = population.reference.log_prob(draws)
    return len(draws)


def _starts(
    coordinates: Coordinates, count: int, generator: torch.Generator, init: Tensor | None, prior: Tensor | None
) -> Tensor:
    """Named points, then draws of the prior, or else points of several scales around the origin."""
    dim = coordinates.dim
    made = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    scales = torch.tensor(START_SCALES, dtype=torch.float64).repeat(count // len(START_SCALES) + 1)[:count]
    u = torch.rand(count, dim, generator=generator, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    made = torch.where(coordinates.line, made * scales[:, None], u)
    made = torch.where(coordinates.interval, to_line(u), made)
    lower, length = coordinates.bounds
    made = torch.where(coordinates.circle, lower + length * u, made)
    made = torch.where(coordinates.sizes > 0, (u * coordinates.sizes).floor(), made)
    if prior is not None:
        made = torch.cat([prior, made[: count // 4]])
    return made if init is None else torch.cat([init.to(made), made])


def _summits(
    target: Pullback, settings: Exploration, starts: Tensor, values: Tensor, named: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Distinct local maxima, best first, and their curvature."""
    best = values.argsort(descending=True)[: settings.ascents // 2]
    other = torch.randperm(len(starts), generator=generator)[: settings.ascents - len(best)]
    chosen = torch.unique(torch.cat([torch.arange(min(named, settings.ascents)), best, other]))
    points, tops = ascend(target.value_and_gradient, starts[chosen])
    points = target.coordinates.wrap(points)
    finite = torch.isfinite(tops) & torch.isfinite(points).all(1)
    points, tops = points[finite], tops[finite]
    if not len(points):
        return points, tops, None
    keep = distinct(points, tops, torch.ones_like(points[0]), radius=SAME, limit=settings.modes)
    points, tops = points[keep], tops[keep]
    if len(points) >= MANY_MAXIMA and settings.generations and bool(target.coordinates.line.all()):
        points, tops = _recombined(target, settings, points, tops, generator)
    dim = points.shape[1]
    affordable = max(1, (settings.particles * 40) // (2 * dim * (1 + ROUNDS)))
    points, tops = points[:affordable], tops[:affordable]
    step = 1e-3 * torch.ones(dim, dtype=points.dtype)
    hessians = curvature(target.value_and_gradient, points, step)
    real = _is_maximum(hessians, target.coordinates.line)
    if not bool(real.any()):
        return points[:0], tops[:0], None
    points, tops, precisions = points[real], tops[real], _positive(hessians[real], target.coordinates.line)
    if not bool(target.coordinates.line.all()):
        return points, tops, precisions
    for _ in range(ROUNDS):
        points, tops, precisions = newton(target.value_and_gradient, points, tops, precisions)
    precisions = _positive(precisions, target.coordinates.line, INVERTIBLE)  # a neck's may be singular to rounding
    again = distinct(points, tops, torch.ones_like(points[0]), radius=SAME, limit=settings.modes)
    return points[again], tops[again], precisions[again]


def laplace_shares(tops: Tensor, precisions: Tensor) -> Tensor:
    """The shares of the mass around maxima, by their heights and curvatures.

    Args:
        tops: shape (K,).
        precisions: shape (K, m, m).
    """
    return torch.softmax(tops - 0.5 * torch.linalg.slogdet(precisions)[1], 0)


def _recombined(
    target: Pullback, settings: Exploration, points: Tensor, tops: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """More and better maxima from those that were found; reflected about the middle of intervals, and zero."""
    assert target.gradient is not None
    step = 1e-3 * torch.ones_like(points[0])
    centre = torch.where(target.coordinates.interval, to_line(torch.full_like(step, 0.5)), 0.0)
    return recombined(
        target.value_and_gradient, points, tops,
        lambda top: curvature(target.value_and_gradient, top[None], step)[0],
        centre, generator, generations=settings.generations, same=SAME, limit=settings.modes,
    )  # fmt: skip


def _is_maximum(hessians: Tensor, line: Tensor) -> Tensor:
    """Whether the curvature is that of a maximum: an ascent may have stopped on a ridge, which says nothing about mass."""
    both = line[:, None] & line[None]
    values = torch.linalg.eigvalsh(torch.where(both, hessians, torch.eye(len(line), dtype=hessians.dtype)))
    return values[:, 0] > 1e-8 * values[:, -1]


def _positive(hessians: Tensor, line: Tensor, least: float = 1e-6) -> Tensor:
    """Symmetric matrices with eigenvalues bounded away from zero; the identity outside the lines."""
    both = line[:, None] & line[None]
    eye = torch.eye(len(line), dtype=hessians.dtype)
    values, vectors = torch.linalg.eigh(torch.where(both, hessians, eye))
    floor = least * values.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    values = torch.where(values > floor, values, torch.maximum(values.abs(), floor))
    return vectors @ torch.diag_embed(values) @ vectors.mT
