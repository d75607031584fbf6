"""Many charts: a train for every region around a maximum, in local coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.atlas import Atlas, Partition
from ..geometry.axes import axes
from ..geometry.candidates import NARROWEST, Candidate, triangular
from ..geometry.chart import Chart
from ..geometry.density import ChartDensity
from ..geometry.product import product_density
from ..geometry.truncation import bounds_of_mass, truncated
from .certificate import loses_modes
from .cover import WHOLE
from .plan import MOST_PER_TRAIN, RANKS
from .search import Fitted, Search
from .tighten import EFFECTIVE, FURTHER
from .training import STRAY, train_in

__all__ = ["split", "split_first", "split_if_better"]

SPLIT_BELOW = 0.9  # effective share of one train below which regions are tried
HOPELESS = 0.1  # effective share of the best product of the whole space below which regions come before any train
FAIR = 0.3  # effective share of the products of the regions that promises good trains
MOST_REGIONS = 32
DRAWS = 2048  # of the population, for the first look at the regions
REGION_TOL = 2e-2
POINTS_PER_LINE = 8  # of the population in a region, for regressions among its columns
BENT = "bent regions"


def split_if_better(search: Search, best: Fitted) -> Fitted:
    """An atlas in place of a train that loses a mode or whose weights are uneven, if the atlas is better."""
    lost = loses_modes(search, best)
    if not (lost or best.ess < SPLIT_BELOW):
        return best
    atlas = split(search, needed=lost and best.ess > SPLIT_BELOW)
    if atlas is None:
        return best
    if atlas.ess > best.ess or (lost and atlas.ess > 0.5 and not loses_modes(search, atlas)):
        return atlas
    return best


def split_first(search: Search, looked: Sequence[Candidate]) -> Fitted | None:
    """An atlas before any train: no chart of the whole space is good for anything, and products in regions are."""
    if max(c.assessment.ess for c in looked) >= HOPELESS or len(search.cloud.modes) < 2:
        return None
    atlas = split(search)
    return atlas if atlas is not None and atlas.ess > SPLIT_BELOW else None


def split(search: Search, *, needed: bool = False) -> Fitted | None:
    """A train for every region around a maximum, in local coordinates; None where that does not pay or cannot be paid.

    Args:
        search: the fit.
        needed: spares the atlas the proof that it pays.
    """
    cloud, budget = search.cloud, search.plan.budget
    most = MOST_REGIONS if budget is None else max(2, min(MOST_REGIONS, budget // 2000))
    with search.account.stage("atlas"):
        try:
            around = Partition.around(search.target, cloud.points, cloud.modes, cloud.precisions, most)
            around = around and around.of_weight(cloud.points, search.target(_centres(search, around)))
            if around is None:
                return None
            regions, promising = _best(search, _possible(search, around))
            return _atlas(search, regions) if needed or promising else None
        except BudgetExhausted:
            search.notes.append("the budget ended while regions were looked for")
            return None


@dataclass(frozen=True)
class _Regions:
    """A partition with the coordinates of its regions, and a product density in each.

    Attributes:
        partition: the regions.
        charts: one for each.
        points: in ``t``, that each is made from.
        kind: in words.
    """

    partition: Partition
    charts: list[Chart]
    points: list[Tensor]
    kind: str

    def products(self, **options: Any) -> Atlas:
        """The mixture of the product densities of the regions."""
        pairs = zip(self.charts, self.points, strict=True)
        parts = [ChartDensity(product_density(chart, chart.from_t(t)[0], **options), chart) for chart, t in pairs]
        return Atlas(parts, self.partition.log_shares)


def _possible(search: Search, around: Partition) -> list[_Regions]:
    """Normal densities shaped by the population, or by the curvature alone: of many directions a thousand points know less
    than that; and columns fitted to the population of each region, for bent ones.
    """
    refined = around.refined(search.cloud.points)
    found = [_normal_regions(search, refined)]
    if search.cloud.precisions is not None:
        found.append(_normal_regions(search, around.shared(search.target(_centres(search, around)))))
    bent = _bent_regions(search, refined)
    return found if bent is None else [*found, bent]


def _normal_regions(search: Search, partition: Partition) -> _Regions:
    noise = torch.randn(DRAWS, search.coordinates.dim, generator=search.generator, dtype=torch.float64)
    charts = [_local_chart(search, partition, k, search.order) for k in range(partition.size)]
    columns = (torch.where(c.stretch.fixed, _spread(search, c), c.stretch.inverse(noise)[0]) for c in charts)
    points = [chart.to_t(w)[0] for chart, w in zip(charts, columns, strict=True)]
    return _Regions(partition, charts, points, "normal regions")


def _bent_regions(search: Search, partition: Partition) -> _Regions | None:
    """None where some region has too few points for regressions."""
    owner = partition.log_responsibilities(search.cloud.points).argmax(1)
    points = [search.cloud.points[owner == k] for k in range(partition.size)]
    lines = int(search.coordinates.line.sum())
    if search.cloud.beta < 1 or lines < 2 or min(len(t) for t in points) < POINTS_PER_LINE * lines:
        return None
    charts = [triangular(search.coordinates, t) for t in points]
    return _Regions(partition, charts, points, BENT)


def _best(search: Search, possible: Sequence[_Regions]) -> tuple[_Regions, bool]:
    """The regions whose product densities do best together, and whether that is better than what there is."""
    best = max((row["ess"] for row in search.tried), default=0.0)
    found = [search.weigh(regions.products()) for regions in possible]
    for regions, seen in zip(possible, found, strict=True):
        search.record_atlas(regions.kind, seen, regions.products(safe=NARROWEST))
    k = max(range(len(found)), key=lambda j: found[j].ess)
    promising = found[k].ess > FAIR or found[k].ess > 2 * best
    if not promising:
        size = possible[k].partition.size
        search.notes.append(f"{size} regions with an effective share of {found[k].ess:.2g} only: no atlas")
    return possible[k], promising


def _centres(search: Search, partition: Partition) -> Tensor:
    """The middles of the regions, in ``t``; angles and finite values as in the middle of the population."""
    line = search.coordinates.line
    middle = torch.where(line, 0.0, search.cloud.points.median(0).values)
    return middle.repeat(partition.size, 1).masked_scatter(line, partition.centres)


def _atlas(search: Search, regions: _Regions) -> Fitted | None:
    """The trains of the regions, mixed by their masses; None if none could be built."""
    size = regions.partition.size
    left = search.left(0.6, among=size)
    share = MOST_PER_TRAIN // 5 if left is None else left
    tried = [_region(search, regions, k, share) for k in range(size)]
    trained = [c for c in tried if c is not None and math.isfinite(c.assessment.log_evidence)]
    if not trained:
        return None
    parts, masses = [], []
    for candidate in trained:
        for density, part in _without_ends(candidate):
            parts.append(ChartDensity(density, candidate.chart))
            masses.append(candidate.assessment.log_evidence + math.log(part))
    atlas = Atlas(parts, torch.tensor(masses, dtype=torch.float64))
    seen = search.weigh(atlas)
    search.notes.append(f"an atlas of {len(trained)} regions has an effective share of {seen.ess:.2g}")
    search.record_atlas(f"{len(trained)} trains", seen, atlas)
    return Fitted(atlas, seen.ess, seen.elbo, f"atlas of {len(trained)} regions", parts[0].base)


def _without_ends(candidate: Candidate) -> list[tuple[Any, float]]:
    """A train that owes divergence to stray draws in two parts: cut off where its weights end, and a little of it further out."""
    a, stretch = candidate.assessment, candidate.chart.stretch
    if a.divergence < STRAY or a.ess * len(a.points) < EFFECTIVE:
        return [(candidate.density, 1.0)]
    near = truncated(candidate.density, *bounds_of_mass(stretch, a.points, a.log_weights))
    wide = truncated(candidate.density, *bounds_of_mass(stretch, a.points, a.log_weights, further=FURTHER))
    return [(near, 1 - WHOLE), (wide, WHOLE)]


def _region(search: Search, regions: _Regions, k: int, budget: int) -> Candidate | None:
    """The train of one region: of the target times the region's share in every point."""
    chart, partition = regions.charts[k], regions.partition

    def log_density(w: Tensor) -> Tensor:
        t, slope = chart.to_t(w)
        return search.target(t) + slope + partition.log_responsibilities(t)[:, k]

    centre = _centres(search, partition)[k : k + 1]
    if regions.kind == BENT:
        centre = torch.cat([centre, regions.points[k]])
    tol = max(search.plan.tol, REGION_TOL)
    return train_in(
        search,
        chart,
        centre,
        tol=tol,
        max_rank=min(RANKS[0], search.plan.max_rank),
        budget=budget,
        log_density=log_density,
    )


def _spread(search: Search, chart: Chart) -> Tensor:
    """The population's angles and finite values, for the columns that a region leaves alone."""
    points = chart.from_t(search.cloud.points)[0]
    return points[torch.arange(DRAWS) % len(points)]


def _local_chart(search: Search, partition: Partition, k: int, order: Tensor | None) -> Chart:
    """Coordinates of one region: the axes of its covariance, or every line given the earlier ones in an order."""
    dim, line = search.coordinates.dim, search.coordinates.line
    number = line.nonzero()[:, 0]
    matrix = torch.eye(dim, dtype=torch.float64)
    covariance = partition.factors[k] @ partition.factors[k].T
    matrix[number[:, None], number[None]] = axes(covariance, order)
    loc = torch.zeros(dim, dtype=torch.float64).masked_scatter(line, partition.centres[k])
    return Chart.plain_affine(search.coordinates, loc, matrix, label=f"region {k}")
