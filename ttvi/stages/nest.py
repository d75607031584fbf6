"""Hyperparameters set apart: the other coordinates Gaussian given the few that their scales depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..geometry.assessment import Assessment
from ..geometry.chart import Chart
from ..geometry.nested_laplace import NestedLaplace, leading_columns, nested_laplace
from ..verdict import MODE_GAP
from .search import Search

__all__ = ["nest"]

DRAWS = 8192
KEPT = 4096
MOST_EVALUATIONS = 400_000
SHARE = 0.1  # of the budget
GOOD = 0.3  # effective share from which on its draws are a better population than the one that was moved
MISSED = 0.05  # share of the population, beyond which it is the better one of the two
SETTLED = 0.8  # effective share at which no other choice of leading coordinates is tried


@dataclass(frozen=True)
class _Weighed:
    """An approximation, draws of it in ``t``, the log-density there, and their weights."""

    made: NestedLaplace
    points: Tensor
    values: Tensor
    weights: Assessment


def nest(search: Search) -> None:
    """Offer a chart in which a few coordinates lead, and the population that its draws and weights are.

    Where the scales of several columns of the triangular chart depend on one, a grid over that one and Laplace's method
    for the rest follow a neck to its end, whether or not the population has been there.
    """
    if search.chart is None or not search.gradient or search.plan.geometry != "auto":
        return
    if not bool(search.coordinates.line.all()):
        return
    leading = leading_columns(search.chart.mixing)
    best: _Weighed | None = None
    with search.account.stage("geometry"):
        for count in range(len(leading), 0, -1):
            try:
                found = _weighed(search, leading[:count])
            except BudgetExhausted:
                break
            except torch.linalg.LinAlgError as failure:
                search.notes.append(f"no Laplace approximation given {count} coordinates: {failure}")
                continue
            if found is not None and (best is None or found.weights.ess > best.weights.ess):
                best = found
            if best is not None and best.weights.ess > SETTLED:
                break
    if best is None or best.weights.ess <= GOOD:
        return
    if (missed := _missed(search, best)) > MISSED:
        search.notes.append(
            f"Laplace's method given a few coordinates has next to nothing where {missed:.0%} of the population is"
        )
        return
    _offer(search, best)


def _weighed(search: Search, leading: list[int]) -> _Weighed | None:
    """The approximation with these leading coordinates; None where it cannot be made."""
    limit = search.plan.share(SHARE) or MOST_EVALUATIONS
    made = nested_laplace(search.target, leading, search.cloud.points, min(limit, MOST_EVALUATIONS))
    if made is None:
        return None
    draws = DRAWS if search.plan.budget is None else 2 * search.plan.checks
    s, log_prob = made.sample(draws, search.generator)
    t, volume = made.mixing.forward(s)
    values = search.target(t)
    return _Weighed(made, t, values, Assessment.of(s, values + volume - log_prob))


def _missed(search: Search, best: _Weighed) -> float:
    """The share of the population where the target has twenty times the density: Laplace's method knows one mode given the leading
    coordinates, and its own weights do not tell of another.
    """
    s, slope = best.made.mixing.inverse(search.cloud.points)
    gap = search.cloud.values - slope - best.made.log_prob(s) - best.weights.log_evidence
    return float((gap > MODE_GAP).double().mean())


def _offer(search: Search, best: _Weighed) -> None:
    """Its chart, and its weighted draws as the population."""
    mixing, weights = best.made.mixing, best.weights
    leading = mixing.order[: len(mixing.loc)].tolist()
    search.notes.append(
        f"Laplace's method for the others given coordinate {', '.join(map(str, leading))}: an effective share of {weights.ess:.2g}"
    )
    # Repeated points would pass for evidence: no more of them than are effective.
    number = min(KEPT, int(weights.ess * len(weights.points)))
    log_weights = weights.log_weights
    chosen = torch.multinomial(torch.softmax(log_weights, 0), number, True, generator=search.generator)
    search.cloud = replace(search.cloud, points=best.points[chosen], values=best.values[chosen], beta=1.0)
    search.nested = Chart.conditional(search.coordinates, mixing, search.cloud.points, label="nested")
