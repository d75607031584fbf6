"""Many charts: a train for every region around a maximum, in local coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import Assessment
from ..geometry.atlas import Atlas, Partition
from ..geometry.axes import axes
from ..geometry.candidates import NARROWEST, Candidate, triangular
from ..geometry.chart import MANY_COORDINATES, Chart
from ..geometry.coordinates import Coordinates
from ..geometry.density import ChartDensity
from ..geometry.product import product_density
from ..geometry.truncation import bounds_of_mass, truncated
from .certificate import loses_modes
from .cover import COST, WHOLE
from .plan import ENOUGH, MOST_PER_TRAIN, NEAR, RANKS
from .search import Fitted, Search, Tried
from .tighten import EFFECTIVE, FURTHER, with_those_beyond
from .training import train_in

__all__ = ["split", "split_first", "split_if_better"]

SPLIT_BELOW = 0.9  # effective share of one train below which regions are tried
FAIR = 0.3  # effective share of products in regions that promises good trains, and of those of the whole space
PROMISING = 0.1  # of products in regions, where they are better than whatever there is
MOST_REGIONS = 32
MOST_FIRST = 5  # regions that come before any train: of many wells in a product one train is cheaper
DRAWS = 2048  # of the population, for the first look at the regions
REGION_TOL = 2e-2
POINTS_PER_LINE = 8  # of the population in a region, for regressions among its columns
PER_REGION = MOST_PER_TRAIN // 5  # evaluations of the train of a region
EARLY = 2 * PER_REGION  # of all those together that come before any train
RAISED = 2 * MOST_PER_TRAIN  # of all those together whose ranks are raised
MOST_BENT = 20  # columns of bent regions, whose responsibilities cost the product density of every region
BENT_ROUNDS = 2  # of columns fitted to the points of a region, and points given to the region that has them
HALF = 7.0  # deviations at which the columns of a region end
NORMAL = 6.0  # that no point of a region is further out than, where its columns may end
SAFETY = 0.01  # share of the draws of an atlas that are of the products of its regions


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
    if max(c.assessment.ess for c in looked) >= FAIR or len(search.cloud.modes) < 2:
        return None
    atlas = split(search, most=MOST_FIRST, evaluations=EARLY)
    return atlas if atlas is not None and atlas.ess > SPLIT_BELOW else None


def split(
    search: Search, *, needed: bool = False, most: int = MOST_REGIONS, evaluations: int = MOST_REGIONS * PER_REGION
) -> Fitted | None:
    """A train for every region around a maximum, in local coordinates; None where that does not pay or cannot be paid.

    Args:
        search: the fit.
        needed: spares the atlas the proof that it pays.
        most: regions, of which there are none if there would be more.
        evaluations: of all their trains together, without a budget and before ranks are raised.
    """
    cloud, budget = search.cloud, search.plan.budget
    limit = MOST_REGIONS if budget is None else max(2, min(MOST_REGIONS, budget // 2000))
    with search.account.stage("atlas"):
        try:
            around = Partition.around(search.target, cloud.points, cloud.modes, cloud.precisions, limit)
            around = around and around.of_weight(cloud.points, search.target(_centres(search, around)))
            if around is None or around.size > most:
                return None
            regions, seen, promising = _best(search, _possible(search, around))
            if not (needed or promising):
                return None
            trained = _trained(search, regions, min(PER_REGION, evaluations // around.size))
            atlas = _mixed(search, regions, trained, seen) if trained else None
        except BudgetExhausted:
            search.notes.append("the budget ended while regions were looked for")
            return None
        early = evaluations < MOST_REGIONS * PER_REGION
        if atlas is None or (early and atlas.ess < SPLIT_BELOW):
            return atlas
        return _raised(search, regions, trained, seen, atlas)


@dataclass(frozen=True)
class _Regions:
    """A partition with the coordinates of its regions, and a product density in each.

    Attributes:
        partition: the regions.
        charts: one for each.
        points: in ``t``, that each is made from.
        bent: whether the columns are fitted to the points, so that these are where the mass is.
    """

    partition: Partition
    charts: list[Chart]
    points: list[Tensor]
    bent: bool = False

    @property
    def kind(self) -> str:
        """In words."""
        return "bent regions" if self.bent else "normal regions"

    def products(self, **options: Any) -> Atlas:
        """The mixture of the product densities of the regions."""
        pairs = zip(self.charts, self.points, strict=True)
        parts = [ChartDensity(product_density(chart, chart.from_t(t)[0], **options), chart) for chart, t in pairs]
        return Atlas(parts, self.partition.log_shares)

    def log_responsibilities(self, coordinates: Coordinates) -> Callable[[Tensor], Tensor]:
        """What makes the target that of the regions, ``t`` of shape (N, m) to (N, K).

        Ellipses would cut the end of one bent region off and give it to another, whose train has no rank left for it.
        """
        if not self.bent:
            return self.partition.log_responsibilities
        products = self.products()
        return lambda t: products.log_responsibilities(coordinates.to_x(t)[0])


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
    return _Regions(partition, charts, points)


def _bent_regions(search: Search, partition: Partition) -> _Regions | None:
    """None where some region has too few points for regressions, or there are many columns to weigh every point by."""
    everything, lines = search.cloud.points, int(search.coordinates.line.sum())
    if search.cloud.beta < 1 or not 2 <= lines <= MOST_BENT:
        return None
    log_responsibilities: Callable[[Tensor], Tensor] = partition.log_responsibilities
    regions = None
    for _ in range(BENT_ROUNDS):
        owner = log_responsibilities(everything).argmax(1)
        points = [everything[owner == k] for k in range(partition.size)]
        if min(len(t) for t in points) < POINTS_PER_LINE * lines:
            break
        charts = [triangular(search.coordinates, t) for t in points]
        log_shares = torch.tensor([len(t) for t in points], dtype=torch.float64).log()
        regions = _Regions(replace(partition, log_shares=torch.log_softmax(log_shares, 0)), charts, points, bent=True)
        log_responsibilities = regions.log_responsibilities(search.coordinates)
    return regions


def _best(search: Search, possible: Sequence[_Regions]) -> tuple[_Regions, Assessment, bool]:
    """The regions whose product densities do best together, and whether that is better than what there is."""
    best = max((c.assessment.ess for c in search.seen), default=0.0)
    found = []
    for regions in possible:
        drawn = regions.products()
        found.append(search.weigh(drawn))
        search.record_atlas(regions.kind, Tried(regions.products(safe=NARROWEST), drawn, found[-1]))
    log_evidence = max(seen.log_evidence for seen in found)
    worth = [_worth(seen, log_evidence) for seen in found]
    k = max(range(len(found)), key=worth.__getitem__)
    promising = worth[k] > FAIR or worth[k] > (best if worth[k] > PROMISING else 2 * best)
    if not promising:
        size = possible[k].partition.size
        search.notes.append(f"{size} regions with an effective share of {worth[k]:.2g} only: no atlas")
    return possible[k], found[k], promising


def _worth(seen: Assessment, log_evidence: float = -math.inf) -> float:
    """The effective share, or what the bound of the evidence makes of it: that of a few draws, not the bulk, a train repairs.

    Of log-normal weights both are the same: their effective share is exp(-2 KL).

    Args:
        seen: weighted draws.
        log_evidence: by other draws, which counts where it is higher: poor weights have not seen all of it.
    """
    return max(seen.ess, math.exp(-2 * max(0.0, max(log_evidence, seen.log_evidence) - seen.elbo)))


def _centres(search: Search, partition: Partition) -> Tensor:
    """The middles of the regions, in ``t``; angles and finite values as in the middle of the population."""
    line = search.coordinates.line
    middle = torch.where(line, 0.0, search.cloud.points.median(0).values)
    return middle.repeat(partition.size, 1).masked_scatter(line, partition.centres)


def _trained(search: Search, regions: _Regions, each: int) -> dict[int, Candidate]:
    """The trains of the regions, those that could be built."""
    size = regions.partition.size
    left = search.left(0.6, among=size)
    tried = {k: _region(search, regions, k, each if left is None else left, RANKS[0]) for k in range(size)}
    return {k: c for k, c in tried.items() if c is not None and math.isfinite(c.assessment.log_evidence)}


def _raised(
    search: Search, regions: _Regions, trained: dict[int, Candidate], products: Assessment, atlas: Fitted
) -> Fitted:
    """The atlas with the next rank in the regions that fell short of the first, where it is near and that makes it better."""
    short = [k for k, c in trained.items() if c.density.info.status in ("rank-limited", "budget exhausted")]
    near = _worth(search.atlases[-1].seen) > NEAR and atlas.ess < ENOUGH
    if not short or not near or search.plan.max_rank <= RANKS[0]:
        return atlas
    left = search.left(0.6, among=len(short))
    each = min(MOST_PER_TRAIN, RAISED // len(short)) if left is None else left
    higher = {k: _region(search, regions, k, each, RANKS[1]) for k in short}
    better = {k: c for k, c in higher.items() if c and _better(c.assessment, trained[k].assessment)}
    if not better:
        return atlas
    try:
        return max(atlas, _mixed(search, regions, {**trained, **better}, products), key=lambda fitted: fitted.ess)
    except BudgetExhausted:
        return atlas


def _better(new: Assessment, old: Assessment) -> bool:
    """Whether the weights of a train are better than those of another of the same region."""
    log_evidence = max(new.log_evidence, old.log_evidence)
    return _worth(new, log_evidence) > _worth(old, log_evidence)


def _mixed(search: Search, regions: _Regions, trained: dict[int, Candidate], products: Assessment) -> Fitted:
    """The trains of the regions, mixed by their masses.

    Products of the regions that are any good take a few of the draws, and no more than cost next to nothing: they bound the
    weights where a train falls short.
    """
    bounded = _worth(products) > FAIR
    parts, masses = [], []
    for k, candidate in trained.items():
        # Cut ends need something that goes on beyond them.
        for density, part in _without_ends(search, regions, candidate, k) if bounded else [(candidate.density, 1.0)]:
            parts.append(ChartDensity(density, candidate.chart))
            masses.append(candidate.assessment.log_evidence + math.log(part))
    if bounded:
        part = min(SAFETY, COST / max(1e-12, products.log_evidence - products.elbo))
        narrow = regions.products(safe=NARROWEST)
        total = float(torch.tensor(masses).logsumexp(0)) + math.log(part)
        parts += narrow.parts
        masses += (total + narrow.log_shares).tolist()
    atlas = Atlas(parts, torch.tensor(masses, dtype=torch.float64))
    seen = search.weigh(atlas)
    search.notes.append(f"an atlas of {len(trained)} regions has an effective share of {seen.ess:.2g}")
    search.record_atlas(f"{len(trained)} trains", Tried(atlas, atlas, seen))
    return Fitted(atlas, seen.ess, seen.elbo, f"atlas of {len(trained)} regions", parts[0].base)


def _without_ends(search: Search, regions: _Regions, candidate: Candidate, k: int) -> list[tuple[Any, float]]:
    """The train of a region in two parts: cut off where its weights end, and a little of it further out.

    It is wrong by its tolerance anywhere, and one draw of ten thousand between bent modes may cost as many nats.
    """
    a, chart, density = candidate.assessment, candidate.chart, candidate.density
    if a.ess * len(a.points) < EFFECTIVE:
        return [(density, 1.0)]
    log_density = _part(search, regions, chart, k)
    try:
        w, log_weights = with_those_beyond(search, density, log_density, chart, a.points, a.log_weights)
    except BudgetExhausted:
        return [(density, 1.0)]
    near = truncated(density, *bounds_of_mass(chart.stretch, w, log_weights))
    wide = truncated(density, *bounds_of_mass(chart.stretch, w, log_weights, further=FURTHER))
    return [(near, 1 - WHOLE), (wide, WHOLE)]


def _part(search: Search, regions: _Regions, chart: Chart, k: int) -> Callable[[Tensor], Tensor]:
    """The target times the share of a region in every point, in the region's own columns."""
    log_responsibilities = regions.log_responsibilities(search.coordinates)

    def log_density(w: Tensor) -> Tensor:
        t, slope = chart.to_t(w)
        return search.target(t) + slope + log_responsibilities(t)[:, k]

    return log_density


def _region(search: Search, regions: _Regions, k: int, budget: int, rank: int) -> Candidate | None:
    """The train of one region."""
    chart = _ended(search, regions, k)
    centre = _centres(search, regions.partition)[k : k + 1]
    if regions.bent:
        centre = torch.cat([centre, regions.points[k]])
    return train_in(
        search,
        chart,
        centre,
        tol=max(search.plan.tol, REGION_TOL),
        max_rank=min(rank, search.plan.max_rank),
        budget=budget,
        log_density=_part(search, regions, chart, k),
    )


def _ended(search: Search, regions: _Regions, k: int) -> Chart:
    """The chart of a region, with columns that end where there are many and its points are spread as normal ones are."""
    chart, points = regions.charts[k], search.cloud.points
    if regions.bent or search.coordinates.dim <= MANY_COORDINATES:
        return chart
    owned = points[regions.partition.log_responsibilities(points).argmax(1) == k]
    columns = chart.mixing.inverse(owned)[0][:, ~chart.stretch.fixed]
    return chart.boxed(HALF) if bool((columns.abs() < NORMAL).all()) else chart


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
