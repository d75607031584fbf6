"""Which coordinates: every chart is looked at, and small trains are tried."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import assess
from ..geometry.candidates import (
    CURVATURE,
    DIFFERENCES,
    Candidate,
    at_maximum,
    charts,
    differences,
    in_chart,
    look,
    whitened,
)
from ..geometry.chart import MANY_COORDINATES, Chart
from ..geometry.ends import ends_of_columns
from ..geometry.exploration import laplace_shares
from .plan import ENOUGH
from .search import Search, merit
from .training import HEAVY, excellent, trial

__all__ = ["choose", "look_around"]

REFINEMENTS = 3
ONLY = 0.9  # share of a maximum beside which the others do not matter
REFINED_BY = 4096  # points, no more
MANY = 4  # times
REFINED = 0.6  # effective share from which on a mixing chart needs no refinement


def look_around(search: Search) -> list[Candidate]:
    """The product density of every chart, refined; worst first.

    Raises:
        BudgetExhausted: nothing could be looked at.
    """
    points = search.cloud.points
    with search.account.stage("geometry"):
        found = charts(search.coordinates, points, search.plan.geometry, known=search.chart, ends=_ends(search))
        if search.nested is not None:
            found.append(search.nested)
        looked = [seen for chart in found if (seen := _look(search, chart, points)) is not None]
        if (seen := _at_maximum(search)) is not None:
            looked.append(seen)
        if not looked:
            raise BudgetExhausted("nothing could be looked at")
        # Refined, the axes of a curvature and of a population may come to be two tries of one sort; unrefined, the former are
        # worth a train only where they are best, or where coordinates follow from each other.
        refined = sorted((_refined(search, candidate) for candidate in looked), key=merit)
        worth = (c for c in refined if c.chart.label != CURVATURE or c is refined[-1] or search.order is not None)
        return list({c.chart.label: c for c in worth}.values())


def choose(search: Search, looked: Sequence[Candidate]) -> Candidate:
    """Try a small train in each chart, and say which is best and why."""
    trials: list[Candidate] = []
    with search.account.stage("geometry"):
        for candidate in sorted(looked, key=merit, reverse=True):
            if any(excellent(search, c) for c in (*looked, *trials)):
                break
            if (trained := trial(search, candidate)) is not None:
                trials.append(trained)
    best = max([*looked, *trials], key=merit)
    search.notes.append(
        f"{best.chart.label} coordinates: {best.kind} with an effective share of {best.assessment.ess:.2g} "
        f"(tried {', '.join(f'{c.label} {c.assessment.ess:.2g}' for c in [*looked, *trials])})"
    )
    return best


def _ends(search: Search) -> tuple[Tensor, Tensor] | None:
    """Where the user's coordinates may end, if there are many; beyond the population and all maxima of any mass."""
    cloud, coordinates = search.cloud, search.coordinates
    if coordinates.dim <= MANY_COORDINATES:
        return None
    reach = cloud.modes
    if cloud.precisions is not None and len(reach):
        reach = reach[laplace_shares(cloud.mode_values, cloud.precisions) > HEAVY]
    free = coordinates.line & ~Chart.axis(coordinates, cloud.points).stretch.native
    try:
        return ends_of_columns(search.target, cloud.points, reach, free)
    except BudgetExhausted:
        return None


def _look(search: Search, chart: Chart, points: Tensor) -> Candidate | None:
    """The product density of points in a chart; None where the budget does not allow its weights."""
    try:
        candidate = look(search.target, chart, points, search.plan.checks, search.generator)
    except BudgetExhausted:
        return None
    search.record(candidate)
    return candidate


def _at_maximum(search: Search) -> Candidate | None:
    """The normal density at the only maximum that matters, if there is one."""
    cloud = search.cloud
    if search.plan.geometry != "auto" or cloud.precisions is None or not len(cloud.modes):
        return None
    if search.coordinates.dim < 2 or not bool(search.coordinates.line.all()):
        return None
    shares = laplace_shares(cloud.mode_values, cloud.precisions)
    heaviest = int(shares.argmax())
    if shares[heaviest] < ONLY:
        return None
    mode, precision = cloud.modes[heaviest], cloud.precisions[heaviest]
    return _look(search, *at_maximum(search.coordinates, mode, precision, search.order))


def _refined(search: Search, candidate: Candidate) -> Candidate:
    """A mixing chart fitted anew to what its own weights say, while that helps."""
    chart = candidate.chart
    if chart.axis_aligned or chart is search.nested or (chart is search.chart and chart.smooth):
        return candidate
    checks, enough, most = search.plan.checks, REFINED, REFINED_BY
    if not chart.smooth:
        enough, most = ENOUGH, MANY * REFINED_BY  # there is no train to come, and every angle may follow every other
    for _ in range(REFINEMENTS):
        a = candidate.assessment
        effective = a.ess * len(a.points)
        if a.ess > enough or effective < 30:
            break
        count = 4 * checks if effective > 200 else checks
        try:
            a = assess(candidate.density, in_chart(search.target, candidate.chart), count, search.generator)
        except BudgetExhausted:
            break
        # Repeated points would pass for evidence: no more of them than are effective.
        number = int(min(most, max(512, a.ess * len(a.points))))
        points = candidate.chart.to_t(a.population(number, search.generator)[0])[0]
        if candidate.chart.label == "triangular":
            chart, _ = Chart.triangular(search.coordinates, points, candidate.chart.order, label="triangular")
        elif candidate.chart.label == DIFFERENCES:
            chart = differences(search.coordinates, points, candidate.chart.order)
        else:
            order = search.order if chart.label == CURVATURE else None
            chart = whitened(search.coordinates, points, chart.label if order is not None else "whitened", order=order)
        better = _look(search, chart, points)
        if better is None or merit(better) < merit(candidate):
            break
        candidate = better
    return candidate
