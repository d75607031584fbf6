"""Better local maxima from those that are known: clusters exchanged between two of them, reflections, and soft directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ascent import ValueAndGradient, ascend, distinct

__all__ = ["coupled", "recombined"]

COUPLED = 0.1  # of the strongest couplings of two coordinates, what lies between them to count
UNCOUPLED = 1e-4  # of their curvature by themselves, what is no coupling at all
PARENTS = 8  # best maxima, of which clusters are replaced
DONORS = 16  # best maxima that they come from
GROWN = 3  # clusters of random size out of each that is whole
GROWN_IN_ALL = 24  # where two differ everywhere, as a maximum and its reflection do
APART = 0.5  # of the standard deviation of the maxima, from which on two differ in a coordinate
WIDTHS = 2.0  # of its deviation by the curvature, likewise
CLIMBERS = 48  # best offspring, from which local maxima are sought
WATCHED = 8  # best maxima that have to stay the same for the search to end
GAIN = 1e-3  # nats
QUIET = 2  # rounds without a gain at which the search ends
SOFT = 8  # directions of least curvature, whose signs are tried at first


def recombined(
    value_and_gradient: ValueAndGradient,
    points: Tensor,
    values: Tensor,
    curvature: Callable[[Tensor], Tensor],
    centre: Tensor,
    generator: torch.Generator,
    *,
    generations: int,
    same: float,
    limit: int,
) -> tuple[Tensor, Tensor]:
    r"""Local maxima from clusters of coordinates that are exchanged between local maxima.

    In a lattice or a chain of wells, ascents from random starts end with domains of all sizes. Where two maxima differ, the
    coordinates fall into clusters that are coupled among themselves and not to each other; of a sum of local terms each of these may be
    exchanged alone, and the better of both be kept. Parts of a cluster, grown at random along the couplings, and the
    reflections of the best maxima are tried as well. The best offspring climb, and the search goes on while that gives better maxima.

    What exchanges begin from are, besides the maxima, ascents from the signs of the softest directions in their middle: where
    neighbours are tied to each other the softest direction is that in which they agree.

    Args:
        value_and_gradient: (batch, m) to values (batch,) and gradients (batch, m).
        points, values: the local maxima so far, shapes (K, m) and (K,), at least two.
        curvature: the negative Hessian (m, m) at a point (m,).
        centre: what is reflected about, and where directions are soft, besides the mean of the maxima; shape (m,).
        generator: source of randomness.
        generations: the most rounds.
        same: root mean square of the differences between two finds of one maximum.
        limit: the most maxima to return.

    Returns:
        The maxima, best first, with those that were there.

    References:
        Donath and Hoffman, "Lower bounds for the partitioning of graphs" (1973), for the signs of eigenvectors.
        Tinós, Whitley and Chicano, "Partition crossover for pseudo-Boolean optimization" (2015).
        Zhu, Ochoa and Katzgraber, "Efficient cluster algorithm for spin glasses in any space dimension" (2015).

    >>> def wells(x):  # five wells at about -1 and 1, tied to their neighbours; the start has a wall
    ...     x = x.detach().requires_grad_()
    ...     v = -(x**2 - 1).square().sum(1) - 0.1 * x.diff(dim=1).square().sum(1) + 0.01 * x.sum(1)
    ...     return v.detach(), torch.autograd.grad(v.sum(), x)[0]
    >>> walls = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    >>> chain = 8 * torch.eye(5) - 0.2 * torch.eye(5).diff(dim=0).abs().T @ torch.eye(5).diff(dim=0).abs()
    >>> rng = torch.Generator().manual_seed(0)
    >>> points, _ = recombined(
    ...     wells, walls, wells(walls)[0], lambda x: chain, torch.zeros(5), rng, generations=5, same=0.01, limit=8
    ... )
    >>> points[0].round().tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def joined(starts: Tensor) -> tuple[Tensor, Tensor]:
        """The maxima that are known, and those above some starts."""
        found, tops = ascend(value_and_gradient, starts)
        usable = torch.isfinite(tops) & torch.isfinite(found).all(1)
        every, heights = torch.cat([points, found[usable]]), torch.cat([values, tops[usable]])
        keep = distinct(every, heights, torch.ones_like(centre), radius=same, limit=limit)
        return every[keep], heights[keep]

    middles = torch.stack([centre, points.mean(0)])
    points, values = joined(torch.cat([_soft(curvature(middle), middle, points.std(0)) for middle in middles]))
    quiet = 0
    for _ in range(generations):
        before = values.topk(min(WATCHED, len(values))).values.sum()
        hessian = curvature(points[values.argmax()])
        width = hessian.diagonal().clamp_min(1e-300).rsqrt()
        apart = torch.maximum(APART * points.std(0), WIDTHS * width)
        offspring = _offspring(points, values, coupled(hessian), apart, centre, generator)
        heights = value_and_gradient(offspring)[0].nan_to_num(-torch.inf, posinf=-torch.inf)
        points, values = joined(_unlike(offspring[heights.argsort(descending=True)], points, apart))
        gained = values.topk(min(WATCHED, len(values))).values.sum() > before + GAIN
        quiet = 0 if gained else quiet + 1
        if quiet >= QUIET:
            break
    return points, values


def coupled(hessian: Tensor) -> Tensor:
    """Which pairs of coordinates act on each other by the curvature at a point, shape (m, m), boolean.

    >>> coupled(torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.00001], [0.0, 0.00001, 1.0]])).int().tolist()
    [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    scale = hessian.diagonal().abs().clamp_min(1e-300).sqrt()
    strength = (hessian / (scale[:, None] * scale)).abs().fill_diagonal_(0.0)
    strongest = strength.amax(1).sqrt()
    return strength > (COUPLED * strongest[:, None] * strongest).clamp_min(UNCOUPLED)


def _soft(hessian: Tensor, middle: Tensor, spread: Tensor) -> Tensor:
    """Points on both sides of a middle, by the signs of the directions in which the density falls off least, shape (N, m).

    >>> _soft(torch.tensor([[2.0, -1.0], [-1.0, 2.0]]), torch.zeros(2), torch.tensor([1.0, 3.0]))[[0, 2]].prod(1)
    tensor([3., 3.])
    """
    if not bool(torch.isfinite(hessian).all()):
        return middle[None][:0]
    signs = torch.linalg.eigh(hessian)[1].T[:SOFT].sign() * spread
    return torch.cat([middle + signs, middle - signs])


def _offspring(
    points: Tensor, values: Tensor, near: Tensor, apart: Tensor, centre: Tensor, generator: torch.Generator
) -> Tensor:
    """Reflections of the best maxima, and these with whole and with partial clusters of others; shape (N, m), distinct."""
    order = values.argsort(descending=True)
    parents, donors = points[order[:PARENTS]], points[order[:DONORS]]
    mean = points.mean(0)
    made = []
    for parent in parents:
        mirrored = torch.stack([2 * centre - parent, 2 * mean - parent])
        made += list(mirrored)
        for number, donor in enumerate(torch.cat([donors, mirrored])):
            grown = GROWN if number < len(donors) else GROWN_IN_ALL
            for cluster in _clusters((parent - donor).abs() > apart, near, grown, generator):
                made.append(torch.where(cluster, donor, parent))
    return torch.unique(torch.stack(made), dim=0)


def _unlike(offspring: Tensor, known: Tensor, apart: Tensor) -> Tensor:
    """The first ones that differ from all that is known, and from each other, in some coordinate; no more than may climb."""
    new = offspring[(torch.cdist(offspring / apart, known / apart, p=torch.inf) > 1).all(1)]
    kept: list[Tensor] = []
    while len(new) and len(kept) < CLIMBERS:
        kept.append(new[0])
        new = new[((new - new[0]) / apart).abs().amax(1) > 1]
    return torch.stack(kept) if kept else offspring[:0]


def _clusters(differs: Tensor, near: Tensor, grown: int, generator: torch.Generator) -> list[Tensor]:
    """The connected parts of a set of coordinates, and of each some random connected parts, small ones as often as large ones."""
    found, left = [], differs.clone()
    while bool(left.any()):
        whole = _grown(int(left.nonzero()[0]), differs, near, len(left), generator)
        left &= ~whole
        found.append(whole)
        members = whole.nonzero()[:, 0]
        for _ in range(grown if len(members) > 2 else 0):
            first, size = torch.rand(2, generator=generator).tolist()
            seed = int(members[int(first * len(members))])
            found.append(_grown(seed, whole, near, int(len(members) ** size), generator))
    return found


def _grown(seed: int, within: Tensor, near: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A connected set of so many coordinates around one, or of all that are connected."""
    cluster = torch.zeros_like(within)
    cluster[seed] = True
    while (room := size - int(cluster.sum())) > 0:
        front = (near[cluster].any(0) & within & ~cluster).nonzero()[:, 0]
        if not len(front):
            break
        cluster[front[torch.randperm(len(front), generator=generator)[:room]]] = True
    return cluster
