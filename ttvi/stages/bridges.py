"""A composition of trains where one is not enough."""

from __future__ import annotations

import torch

from ..errors import BudgetExhausted, EvaluationError
from ..geometry.bridging import build_bridge
from ..geometry.candidates import Candidate, in_chart
from .plan import NEAR, RANKS
from .search import Fitted, Search, merit

__all__ = ["bridge_if_better"]

BRIDGE_BELOW = 0.5  # effective share below which a composition is tried
FEW = 16  # coordinates: every layer errs in all of them, and the errors add up
MOST_EVALUATIONS = 1_500_000
MOST_LAYERS = 8
MAX_RANK = 8  # of the layers after the first
LEAST_EVALUATIONS = 5000
BETTER = 1.3  # times as effective, as a composition is slower


def bridge_if_better(search: Search, fitted: Fitted) -> Fitted:
    """Trains along inverse temperatures, each in what the earlier ones leave; kept if their weights say so."""
    lines = search.coordinates.line | search.coordinates.circle
    if fitted.ess > BRIDGE_BELOW or not 2 <= search.coordinates.dim <= FEW or not bool(lines.all()):
        return fitted
    with search.account.stage("bridge"):
        for chart in _charts(search):
            made = _bridge(search, chart)
            if made is not None and made.assessment.ess > BETTER * fitted.ess:
                fitted = Fitted.of(made)
            if fitted.ess > BRIDGE_BELOW:
                break
    return fitted


def _charts(search: Search) -> list[Candidate]:
    """The best candidate that keeps the user's coordinates, and the best of all if it is a different one that comes near."""
    ranked = sorted(search.seen, key=merit, reverse=True)
    axis = [c for c in ranked if c.chart.axis_aligned][:1]
    others = [c for c in ranked[:1] if not c.chart.axis_aligned and c.assessment.ess > 0.1 * NEAR]
    return others + axis


def _bridge(search: Search, candidate: Candidate) -> Candidate | None:
    """In the chart of a candidate; None if it cannot be paid for or fails."""
    chart, left = candidate.chart, search.left(0.5)
    budget = MOST_EVALUATIONS if left is None else left
    if budget < LEAST_EVALUATIONS:
        return None
    init = chart.from_t(search.cloud.points[:32])[0]
    try:
        made = build_bridge(
            in_chart(search.target, chart), chart.bases(), budget=budget, generator=search.generator,
            init_points=init[torch.isfinite(init).all(1)], checks=search.plan.checks, most_layers=MOST_LAYERS,
            max_rank=min(MAX_RANK, search.plan.max_rank), first_rank=min(RANKS[0], search.plan.max_rank),
        )  # fmt: skip
    except (BudgetExhausted, EvaluationError, torch.linalg.LinAlgError) as failure:
        search.notes.append(f"bridge failed: {failure}")
        return None
    search.notes.append(
        f"a bridge of {len(made.betas)} trains in {chart.label} coordinates has an effective share of {made.assessment.ess:.2g}"
    )
    bridged = Candidate(chart, made.density, made.assessment, "bridge")
    search.record(bridged)
    return bridged
