"""Where the mass is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..diagnostics import effective_sample_size
from ..errors import BudgetExhausted, EvaluationError
from ..evaluation import Evaluations
from ..geometry import exploration
from ..geometry.chart import Chart
from ..geometry.density import ChartDensity
from ..geometry.exploration import Cloud, Exploration, unexplored
from ..geometry.product import product_density
from .search import Fitted, Search

__all__ = ["explore", "fallback"]

SHARE = 0.2  # of the budget
SMALL = 3000
SHARE_OF_LITTLE = 0.6  # of a budget that allows hardly more than to look around


def explore(search: Search, *, init: Tensor | None, prior: Tensor | None) -> None:
    """Find the mass; a fifth of the budget.

    Args:
        search: the fit.
        init: points of good density that the user knows, in ``t``.
        prior: draws of the prior, in ``t``.

    Raises:
        BudgetExhausted: not even that could be paid for; the cloud is what is known without.
        EvaluationError: the density is zero everywhere.
    """
    budget = search.plan.budget
    limit = search.plan.share(SHARE if budget is None or budget > SMALL else SHARE_OF_LITTLE)
    settings = Exploration.within(limit, search.coordinates.dim, search.gradient)
    with search.account.stage("exploration"), _limited(search.account, limit):
        try:
            cloud = exploration.explore(search.target, settings, search.generator, init=init, prior=prior)
        except BudgetExhausted:
            search.cloud = unexplored(search.coordinates, search.generator, init=init, prior=prior)
            search.notes += search.cloud.notes
            raise
    finite = torch.isfinite(cloud.values)
    if not bool(finite.any()):
        raise EvaluationError(_nowhere(search.account))
    search.cloud = Cloud(
        cloud.points[finite], cloud.values[finite], cloud.modes, cloud.mode_values, cloud.precisions, cloud.beta,
        cloud.log_evidence, cloud.notes,
    )  # fmt: skip
    search.notes += cloud.notes


def fallback(search: Search) -> Fitted:
    """The product density of the population: what is left when nothing else could be paid for."""
    points = search.cloud.points
    if search.cloud.beta < 1:
        points = _likelier(points, search.cloud.values, search.generator)
    chart = Chart.axis(search.coordinates, points)
    density = product_density(chart, chart.from_t(points)[0])
    search.notes.append("the budget allowed no more than the exploration")
    return Fitted(ChartDensity(density, chart), 0.0, search.cloud.log_evidence, "product of marginals", density)


def _nowhere(account: Evaluations) -> str:
    """What to say when no start has any density."""
    if account.num_invalid > 0.5 * account.num_evaluations:
        return (
            f"fit: expected a log-density that is finite somewhere; got {account.num_nan} NaN, {account.num_posinf} +inf and "
            f"{account.num_failed} failures at {account.num_evaluations} points. Mend the function, or return -inf where the "
            "density is zero."
        )
    return (
        "fit: expected a log-density that is finite somewhere; every start had zero density. "
        "Pass init_points= inside the support of the density, or a tighter support=."
    )


def _likelier(points: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
    """Points of an unfinished search drawn again by their density, flattened until several are left."""
    power, least = 1.0, min(len(points), max(8, len(points) // 20))
    while power > 1e-6 and effective_sample_size(power * values) * len(values) < least:
        power *= 0.7
    chosen = torch.multinomial(torch.softmax(power * values, 0), max(2, len(points)), True, generator=generator)
    return points[chosen]


@contextmanager
def _limited(account: Evaluations, limit: int | None) -> Iterator[None]:
    """For a while, at most so many more evaluations."""
    saved = account.budget
    if limit is not None:
        used = account.num_evaluations + account.num_probes
        account.budget = min(saved or used + limit, used + limit)
    try:
        yield
    finally:
        account.budget = saved
