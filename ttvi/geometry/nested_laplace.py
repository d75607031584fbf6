"""Nested Laplace approximation: most coordinates Gaussian given a few, on a grid of these that grows to where the mass ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bounded import Bounded
from .conditional import ConditionallyAffine
from .coordinates import Pullback
from .mixing import Mixing, Triangular

__all__ = ["NestedLaplace", "leading_columns", "nested_laplace"]

MOST_LEADING = 2
LEAST_ROWS = 3  # whose scales depend on a column before it may lead
STRENGTH = 0.1  # sum of slopes of log scales, from which on a column may lead
STEP = 0.5  # of the grid, in standard deviations of the population
DEPTH = 14.0  # nats below the highest node at which the grid ends
FARTHEST = 40  # nodes from the middle
KERNEL = 0.6  # of the draws around a node, in steps
NEWTON_STEPS = 12
CONVERGED = 1e-3  # nats that another step would gain
RETRY = 4
NUDGE = 1e-4  # standard deviations, of the differences of gradients
FLOOR = 1e-8  # of the largest curvature
NEAR_ZERO = 1e-6


@dataclass(frozen=True)
class NestedLaplace:
    """The map, and the marginal of the leading coordinates by Laplace's method.

    Attributes:
        mixing: the map.
        nodes: where the marginal is known, in leading columns ``s``, shape (g, k).
        log_marginal: there, shape (g,), with respect to these columns.
    """

    mixing: ConditionallyAffine
    nodes: Tensor
    log_marginal: Tensor

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws in columns ``s`` (count, m): leading ones around the nodes, the others standard normal; and their log-density."""
        mixing = self.mixing
        lead, rest = len(mixing.loc), mixing.mean.shape[1]
        width = KERNEL * mixing.step
        chosen = torch.multinomial(torch.softmax(self.log_marginal, 0), count, replacement=True, generator=generator)
        noise = torch.randn(count, lead + rest, generator=generator, dtype=self.nodes.dtype)
        s = torch.cat([self.nodes[chosen] + width * noise[:, :lead], noise[:, lead:]], 1)
        return s, self.log_prob(s)

    def log_prob(self, s: Tensor) -> Tensor:
        """The log-density of columns ``s``, shape (N, m) to (N,)."""
        lead, width = len(self.mixing.loc), KERNEL * self.mixing.step
        squares = ((s[:, None, :lead] - self.nodes) / width).square().sum(-1)
        log_leading = torch.logsumexp(torch.log_softmax(self.log_marginal, 0) - 0.5 * squares, 1) - width.log().sum()
        log_rest = -0.5 * s[:, lead:].square().sum(1)
        return log_leading + log_rest - 0.5 * s.shape[1] * math.log(2 * math.pi)


def leading_columns(mixing: Mixing) -> list[int]:
    """Coordinates that the scales of several others depend on, in a triangular map fitted to a population; the strongest first."""
    if isinstance(mixing, Bounded):
        mixing = mixing.inner
    if not isinstance(mixing, Triangular):
        return []
    slopes = mixing.log_slope.abs()
    strength = torch.where((slopes > 0).sum(0) >= LEAST_ROWS, slopes.sum(0), 0.0)
    best = strength.argsort(descending=True)[:MOST_LEADING]
    return mixing.order[best[strength[best] > STRENGTH]].tolist()


def nested_laplace(target: Pullback, leading: list[int], points: Tensor, limit: int) -> NestedLaplace | None:
    r"""Maximise over the other coordinates at every node of a grid of the leading ones, and take the curvature there.

    .. math:: \log \hat p(\theta) = \max_x \log \tilde p(\theta, x) + \tfrac{n}{2} \log 2\pi - \tfrac12 \log\det\Lambda(\theta)

    The grid begins in the middle of the population and grows over its edge wherever the marginal is still worth it, so that
    a neck is followed to its end, whether or not any point of the population has been there.

    Args:
        target: with gradients; all its coordinates are lines.
        leading: numbers of the leading coordinates.
        points: draws ``t``, shape (N, m): location, scales and a first guess.
        limit: evaluations with gradients.

    Returns:
        None where the limit was reached before the grid was whole, or the middle has no maximum.

    References:
        Rue, Martino and Chopin, "Approximate Bayesian inference for latent Gaussian models by using integrated nested
        Laplace approximations" (2009).
    """
    dim = points.shape[1]
    order = torch.tensor(leading + [k for k in range(dim) if k not in leading])
    lead = len(leading)
    ordered = points[:, order]
    loc, scale = ordered[:, :lead].median(0).values, ordered[:, :lead].std(0).clamp_min(1e-12)
    distance = ((ordered[:, :lead] - loc) / scale).square().sum(1)
    guess = ordered[distance.argsort()[: max(8, len(points) // 20)], lead:].mean(0)
    solver = _Solver(target, order, lead, NUDGE * ordered[:, lead:].std(0).clamp_min(1e-12), limit)
    grid = _Grid(lead)
    frontier = {(0,) * lead: guess}
    while frontier:
        keys = list(frontier)
        theta = loc + scale * STEP * torch.tensor(keys, dtype=points.dtype)
        found = solver.maximise(theta, torch.stack([frontier[key] for key in keys]))
        if found is None:
            return None
        frontier = grid.add(keys, *found)
    if not math.isfinite(grid.highest):
        return None
    _fill(grid, solver, loc, scale)
    return _tabulated(grid, order, loc, scale)


def _fill(grid: _Grid, solver: _Solver, loc: Tensor, scale: Tensor) -> None:
    """The corners of the box as well, as far as the limit goes: where the map does not narrow, the density is a spike."""
    low, high = grid.box()
    while missing := grid.missing(low, high):
        keys = list(missing)
        found = solver.maximise(
            loc + scale * STEP * torch.tensor(keys, dtype=loc.dtype), torch.stack(list(missing.values()))
        )
        if found is None:
            return
        grid.add(keys, *found)


@dataclass
class _Grid:
    """Nodes that are known, by their integer places, and where to go next."""

    lead: int
    known: dict[tuple[int, ...], tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    highest: float = -math.inf

    def add(
        self, keys: list[tuple[int, ...]], x: Tensor, precision_factor: Tensor, log_marginal: Tensor
    ) -> dict[tuple[int, ...], Tensor]:
        """Take nodes in; the neighbours of those that are worth it, with a guess each."""
        for number, key in enumerate(keys):
            self.known[key] = x[number], precision_factor[number], float(log_marginal[number])
        self.highest = max(value for _, _, value in self.known.values())
        following: dict[tuple[int, ...], Tensor] = {}
        for key in keys:
            guess, _, value = self.known[key]
            if not value > self.highest - DEPTH:
                continue
            for neighbour in _neighbours(key):
                if neighbour not in self.known and max(map(abs, neighbour)) <= FARTHEST:
                    following[neighbour] = guess
        return following

    def worthy(self) -> list[tuple[int, ...]]:
        """Nodes that count."""
        return [key for key, (_, _, value) in self.known.items() if value > self.highest - DEPTH]

    def box(self) -> tuple[Tensor, Tensor]:
        """One node more than those on every side."""
        places = torch.tensor(self.worthy())
        return places.amin(0) - 1, places.amax(0) + 1

    def missing(self, low: Tensor, high: Tensor) -> dict[tuple[int, ...], Tensor]:
        """Nodes of a box that are not known but next to one that is, with a guess."""
        inside = (tuple(place) for place in _places(low, high).tolist())
        return {
            key: self.known[near[0]][0]
            for key in inside
            if key not in self.known and (near := [other for other in _neighbours(key) if other in self.known])
        }


def _neighbours(key: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(*key[:axis], key[axis] + side, *key[axis + 1 :]) for axis in range(len(key)) for side in (-1, 1)]


def _places(low: Tensor, high: Tensor) -> Tensor:
    """All the nodes of a box, the last coordinate fastest, shape (G, k)."""
    sides = [torch.arange(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*sides).view(-1, len(low))


@dataclass
class _Solver:
    """Newton's method for many nodes at once, with curvatures from differences of gradients."""

    target: Pullback
    order: Tensor
    lead: int
    nudge: Tensor
    limit: int

    def maximise(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Maxima (N, n), lower triangular K with Λ = KᵀK (N, n, n), and log marginals (N,); None beyond the limit."""
        count, size = x.shape
        x = x.clone()
        best, slope = self._value(theta, x)
        factor = x.new_zeros(count, size, size)
        moving = torch.arange(count)
        for _ in range(NEWTON_STEPS):
            if self.limit < 0:
                return None
            factor[moving] = self._precision_factor(theta[moving], x[moving], slope[moving])
            gained = self._climb(theta, x, best, slope, factor, moving)
            moving = moving[gained > CONVERGED]
            if not len(moving):
                break
        log_marginal = best + 0.5 * size * math.log(2 * math.pi) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return x, factor, torch.where(torch.isfinite(log_marginal), log_marginal, -math.inf)

    def _climb(self, theta: Tensor, x: Tensor, best: Tensor, slope: Tensor, factor: Tensor, moving: Tensor) -> Tensor:
        """One step of those that move, a quarter of it where it does not climb; in place. What each gained, shape (len(moving),)."""
        half = torch.linalg.solve_triangular(factor[moving].mT, slope[moving][..., None], upper=True)
        step = torch.linalg.solve_triangular(factor[moving], half, upper=False)[..., 0]
        before = best[moving].clone()
        waiting = torch.ones(len(moving), dtype=torch.bool)
        for attempt in range(RETRY):
            who = moving[waiting]
            tried = x[who] + 0.5 ** (2 * attempt) * step[waiting]
            values, slopes = self._value(theta[who], tried)
            better = values > best[who]
            chosen = who[better]
            x[chosen], best[chosen], slope[chosen] = tried[better], values[better], slopes[better]
            waiting[waiting.nonzero()[:, 0][better]] = False
            if not bool(waiting.any()) or float(half[waiting].square().sum((1, 2)).max()) < CONVERGED:
                break
        return best[moving] - before

    def _precision_factor(self, theta: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        """K of the negative Hessian (N, n, n), made positive where it is not."""
        count, size = x.shape
        moved = x[:, None] + torch.diag(self.nudge)
        _, slopes = self._value(theta[:, None].expand(-1, size, -1).flatten(0, 1), moved.flatten(0, 1))
        hessian = (slopes.view(count, size, size) - slope[:, None]) / self.nudge[:, None]
        precision = -0.5 * (hessian + hessian.mT).nan_to_num(0.0, 0.0, 0.0)
        # In units of the scales, as the coordinates may differ by orders of magnitude.
        unit = self.nudge / NUDGE
        values, vectors = torch.linalg.eigh(precision * unit[:, None] * unit)
        values = values.abs().clamp_min(FLOOR * values.abs().amax(1, keepdim=True).clamp_min(1.0))
        repaired = (vectors * values[:, None]) @ vectors.mT / (unit[:, None] * unit)
        # Λ = KᵀK with K lower triangular is the Cholesky factorisation from the last coordinate to the first.
        return torch.linalg.cholesky(repaired.flip(1, 2)).flip(1, 2).mT

    def _value(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.empty(len(x), len(self.order), dtype=x.dtype)
        t[:, self.order] = torch.cat([theta, x], 1)
        self.limit -= len(t)
        values, slopes = self.target.value_and_gradient(t)
        return values, slopes[:, self.order[self.lead :]]


def _tabulated(grid: _Grid, order: Tensor, loc: Tensor, scale: Tensor) -> NestedLaplace:
    """The tables over the smallest box of all the nodes that count.

    Where a node is not known, the nearest one stands in, with scales continued from there: a map that stops narrowing at the edge
    of the box narrows no more beyond it, and the density is a spike.
    """
    low, high = grid.box()
    usable = {key: value for key, value in grid.known.items() if math.isfinite(value[2])}
    known, box, worthy = torch.tensor(list(usable)), _places(low, high), grid.worthy()
    nearest = torch.cdist(box.to(loc), known.to(loc)).argmin(1)
    x = torch.stack([value[0] for value in usable.values()])[nearest]
    factor = torch.stack([value[1] for value in usable.values()])[nearest]
    diagonal = factor.diagonal(dim1=1, dim2=2)
    ties = -factor.tril(-1) / diagonal[..., None]
    log_diagonal = diagonal.log()
    for row, (key, stand_in) in enumerate(zip(box.tolist(), known[nearest].tolist(), strict=True)):
        log_diagonal[row] += _continued(usable, key, stand_in)
    index = (ties.abs().amax(0) > NEAR_ZERO).nonzero()
    step = torch.full_like(loc, STEP)
    mixing = ConditionallyAffine(
        order, loc, scale, STEP * low.to(loc), step, high - low + 1, x, log_diagonal, index,
        ties[:, index[:, 0], index[:, 1]],
    )  # fmt: skip
    log_marginal = torch.tensor([usable[key][2] for key in worthy], dtype=loc.dtype)
    return NestedLaplace(mixing, STEP * torch.tensor(worthy).to(loc), log_marginal)


def _continued(known: dict[tuple[int, ...], tuple[Tensor, Tensor, float]], key: list[int], near: list[int]) -> Tensor:
    """What the log scales gain from a known node to another place, along straight lines through it and the one before it."""
    at = known[tuple(near)][1].diagonal().log()
    gain = torch.zeros_like(at)
    for axis, (there, here) in enumerate(zip(key, near, strict=True)):
        side = (there > here) - (there < here)
        before = known.get((*near[:axis], here - side, *near[axis + 1 :]))
        if side and before is not None:
            gain += abs(there - here) * (at - before[1].diagonal().log())
    return gain
