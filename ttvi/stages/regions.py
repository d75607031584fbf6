"""Many charts: a train for every region around a maximum, in local coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import Assessment
from ..geometry.atlas import Atlas, Partition
from ..geometry.candidates import NARROWEST, Candidate
from ..geometry.chart import Chart
from ..geometry.density import ChartDensity
from ..geometry.product import product_density
from .certificate import loses_modes
from .plan import MOST_PER_TRAIN, RANKS
from .search import Fitted, Search
from .training import train_in

__all__ = ["split", "split_if_better"]

SPLIT_BELOW = 0.8  # effective share of one train below which regions are tried
MOST_REGIONS = 32
DRAWS = 2048  # of the population, for the first look at the regions
REGION_TOL = 2e-2


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
            if around is None:
                return None
            partitions = [around.refined(cloud.points)]
            if cloud.precisions is not None:
                partitions.append(around.shared(search.target(_centres(search, around))))
            partition, promising = _best(search, partitions)
            return _atlas(search, partition) if needed or promising else None
        except BudgetExhausted:
            search.notes.append("the budget ended while regions were looked for")
            return None


def _best(search: Search, partitions: Sequence[Partition]) -> tuple[Partition, bool]:
    """The partition whose normal densities do best, and whether they do better than what there is.

    Shapes by the population, or by the curvature alone: of many directions a thousand points know less than that.
    """
    best = max((row["ess"] for row in search.tried), default=0.0)
    found = [_normal_regions(search, partition) for partition in partitions]
    k = max(range(len(found)), key=lambda j: found[j].ess)
    promising = found[k].ess > 0.3 or found[k].ess > 2 * best
    if not promising:
        search.notes.append(
            f"{partitions[k].size} regions with an effective share of {found[k].ess:.2g} only: no atlas"
        )
    return partitions[k], promising


def _normal_regions(search: Search, partition: Partition) -> Assessment:
    """What normal densities in the regions are worth; a flow may start from them."""
    parts, narrow = [], []
    noise = torch.randn(DRAWS, search.coordinates.dim, generator=search.generator, dtype=torch.float64)
    for k in range(partition.size):
        chart = _local_chart(search, partition, k)
        w = torch.where(chart.stretch.fixed, _spread(search, chart), chart.stretch.inverse(noise)[0])
        parts.append(ChartDensity(product_density(chart, w), chart))
        narrow.append(ChartDensity(product_density(chart, w, safe=NARROWEST), chart))
    seen = search.weigh(Atlas(parts, partition.log_shares))
    search.record_atlas("normal regions", seen, Atlas(narrow, partition.log_shares))
    return seen


def _centres(search: Search, partition: Partition) -> Tensor:
    """The middles of the regions, in ``t``; angles and finite values as in the middle of the population."""
    line = search.coordinates.line
    middle = torch.where(line, 0.0, search.cloud.points.median(0).values)
    return middle.repeat(partition.size, 1).masked_scatter(line, partition.centres)


def _atlas(search: Search, partition: Partition) -> Fitted | None:
    """The trains of the regions, mixed by their masses; None if none could be built."""
    left = search.left(0.6, among=partition.size)
    share = MOST_PER_TRAIN // 5 if left is None else left
    trained = [_region(search, partition, k, share) for k in range(partition.size)]
    regions = [c for c in trained if c is not None and math.isfinite(c.assessment.log_evidence)]
    if not regions:
        return None
    parts = [ChartDensity(c.density, c.chart) for c in regions]
    atlas = Atlas(parts, torch.tensor([c.assessment.log_evidence for c in regions], dtype=torch.float64))
    seen = search.weigh(atlas)
    search.notes.append(f"an atlas of {len(parts)} regions has an effective share of {seen.ess:.2g}")
    search.record_atlas(f"{len(parts)} trains", seen, atlas)
    return Fitted(atlas, seen.ess, seen.elbo, f"atlas of {len(parts)} regions", parts[0].base)


def _region(search: Search, partition: Partition, k: int, budget: int) -> Candidate | None:
    """The train of one region: of the target times the region's share in every point."""
    chart = _local_chart(search, partition, k)

    def log_density(w: Tensor) -> Tensor:
        t, slope = chart.to_t(w)
        return search.target(t) + slope + partition.log_responsibilities(t)[:, k]

    centre = _centres(search, partition)[k : k + 1]
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


def _local_chart(search: Search, partition: Partition, k: int) -> Chart:
    """Coordinates of one region: the axes of its covariance."""
    dim, line = search.coordinates.dim, search.coordinates.line
    number = line.nonzero()[:, 0]
    values, vectors = torch.linalg.eigh(partition.factors[k] @ partition.factors[k].T)
    order = values.argsort(descending=True)
    matrix = torch.eye(dim, dtype=torch.float64)
    matrix[number[:, None], number[None]] = vectors[:, order] * values[order].clamp_min(1e-24).sqrt()
    loc = torch.zeros(dim, dtype=torch.float64).masked_scatter(line, partition.centres[k])
    return Chart.plain_affine(search.coordinates, loc, matrix, label=f"region {k}")
