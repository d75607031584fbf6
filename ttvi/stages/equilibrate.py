"""The population brought to where the mass is: fit columns to it, move in them, and again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import Assessment
from ..geometry.candidates import look, triangular
from ..geometry.chart import Chart
from ..geometry.equilibration import equilibrate as move
from ..geometry.equilibration import independent
from ..geometry.exploration import mean_factor
from ..verdict import TRUSTED_K
from .plan import NEAR, PARTICLES
from .search import Search

__all__ = ["equilibrate"]

ROUNDS = 16
AT_LEAST = 4
SWEEPS = 6
STRAIGHT = 0.85  # effective share of independent columns at which the population is where it should be
HOPELESS = 0.02  # one below which, without any progress, the target is no single bent peak
POOR = 0.08  # one that says many peaks or strong ties, if it never was higher
LAG = 3  # rounds between which a drift is looked for
DRIFT = 4.5  # standard errors
FEW = 16  # lines up to which the columns show all the scales that there are
MOST_COLUMNS = 128
KEPT = 4096
PER_SWEEP = 2
PER_TRAJECTORY = 7
SHARE = 0.15  # of the budget


def equilibrate(search: Search) -> None:
    """Move the population in the columns of a triangular chart fitted to it, until they are independent or for some rounds.

    A second population at a higher temperature goes ahead, so that the chart is fitted where the first is yet to come.
    Sets the points of the cloud to the population after each of the last sweeps, and the chart.
    """
    columns = int(search.coordinates.following.sum())
    rounds = _rounds(search)
    if not 0 < columns <= MOST_COLUMNS or not rounds or len(search.cloud.points) < 4 * columns:
        return
    points = population = ahead = search.cloud.points[:PARTICLES]
    chart = triangular(search.coordinates, points)
    cloud = search.cloud
    factor = mean_factor(search.coordinates, cloud.mode_values, cloud.precisions) if columns > FEW else None
    looked: list[Assessment] = []
    before, values = [points], search.cloud.values
    with search.account.stage("exploration"):
        while len(before) <= rounds:
            try:
                candidate = look(search.target, chart, points, search.plan.checks, search.generator)
                looked.append(candidate.assessment)
                if _settled(looked, before):
                    break
                population, _ = independent(candidate, population, values[: len(population)], search.generator)
                moved = move(search.target, chart, population, ahead, SWEEPS, search.generator, factor=factor)
            except BudgetExhausted:
                break
            points, values = moved.points[:KEPT], moved.values[:KEPT]
            both = torch.cat([points, moved.ahead[: KEPT // 2]])
            population, ahead = points[: len(population)], moved.ahead[: len(population)]
            search.cloud = replace(search.cloud, points=points, values=values, beta=1.0)
            chart, _ = Chart.triangular(search.coordinates, both, chart.order, label=chart.label)
            before.append(points)
    search.chart = chart
    share = looked[-1].ess if looked else 0.0
    search.notes.append(
        f"population moved {len(before) - 1} times in columns fitted to it, which have an effective share of {share:.2g}"
    )


def _settled(looked: list[Assessment], before: list[Tensor]) -> bool:
    """Whether another round promises nothing: the columns are independent, or hopeless, or nothing drifts any more.

    Few but heavy draws of the columns are a part of the mass that the population is yet to fill.
    """
    moves, most = len(before) - 1, max(a.ess for a in looked)
    if looked[-1].ess > STRAIGHT or (moves >= 2 and most < HOPELESS and most < 2 * looked[0].ess):
        return True
    if moves < AT_LEAST or _drift(before[-1 - LAG], before[-1]) > DRIFT:
        return False
    light = all(a.ess > NEAR and a.pareto_k < TRUSTED_K for a in looked[-2:])
    return light or most < POOR


def _drift(old: Tensor, new: Tensor) -> float:
    """How far quantiles of any coordinate have moved, in standard errors of as many independent points as move together."""
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=old.dtype)
    marks = torch.quantile(old, levels, dim=0)
    shares = (new[:, None] <= marks).to(old.dtype).mean(0)
    error = (levels * (1 - levels) / min(PARTICLES, len(new))).sqrt()[:, None]
    return float(((shares - levels[:, None]) / error).abs().max())


def _rounds(search: Search) -> int:
    """How many can be paid for."""
    share = search.plan.share(SHARE)
    if share is None:
        return ROUNDS
    cost = 2 * (PER_SWEEP + (PER_TRAJECTORY if search.gradient else 0))
    return min(ROUNDS, share // (SWEEPS * cost * min(PARTICLES, len(search.cloud.points)) + search.plan.checks))
