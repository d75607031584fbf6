"""The population brought to where the mass is: fit columns to it, move in them, and again."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..errors import BudgetExhausted
from ..geometry.candidates import look, triangular
from ..geometry.chart import Chart
from ..geometry.equilibration import equilibrate as moved
from .search import Search

__all__ = ["equilibrate"]

ROUNDS = 6
SWEEPS = 6
STRAIGHT = 0.85  # effective share of independent columns at which the population is where it should be
AHEAD = 0.5  # inverse temperature of the population that goes ahead
MOST_LINES = 128
KEPT = 4096
PARTICLES = 1024
PER_SWEEP = 2
PER_TRAJECTORY = 7
SHARE = 0.15  # of the budget


def equilibrate(search: Search) -> None:
    """Move the population in the columns of a triangular chart fitted to it, until they are independent or for some rounds.

    A second population at a higher temperature goes ahead, so that the chart is fitted where the first is yet to come.
    Sets the points of the cloud to the population after each of the last sweeps, and the chart.
    """
    lines = int(search.coordinates.line.sum())
    rounds = _rounds(search)
    if not 2 <= lines <= MOST_LINES or not rounds or len(search.cloud.points) < 4 * lines:
        return
    points = population = ahead = search.cloud.points[:PARTICLES]
    chart, ess, moves = triangular(search.coordinates, points), 0.0, 0
    with search.account.stage("exploration"):
        while moves < rounds:
            try:
                ess = look(search.target, chart, points, search.plan.checks // 4, search.generator).assessment.ess
                if ess > STRAIGHT:
                    break
                points, values = moved(search.target, chart, population, SWEEPS, search.generator)
                ahead, _ = moved(search.target, chart, ahead, SWEEPS, search.generator, beta=AHEAD)
            except BudgetExhausted:
                break
            points, values, both = points[:KEPT], values[:KEPT], torch.cat([points[:KEPT], ahead[: KEPT // 2]])
            population, ahead = points[: len(population)], ahead[: len(population)]
            search.cloud = replace(search.cloud, points=points, values=values, beta=1.0)
            chart, _ = Chart.triangular(search.coordinates, both, chart.order, label=chart.label)
            moves += 1
    search.chart = chart
    search.notes.append(
        f"population moved {moves} times in columns fitted to it; these had an effective share of {ess:.2g} at the last"
    )


def _rounds(search: Search) -> int:
    """How many can be paid for."""
    share = search.plan.share(SHARE)
    if share is None:
        return ROUNDS
    cost = 2 * (PER_SWEEP + (PER_TRAJECTORY if search.gradient else 0))
    return min(ROUNDS, share // (SWEEPS * cost * min(PARTICLES, len(search.cloud.points)) + search.plan.checks // 4))
