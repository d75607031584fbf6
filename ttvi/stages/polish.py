"""A thin flow on top of what there is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from ..flow import train as flow_training
from ..flow.neighbours import nearness
from ..geometry.assessment import Assessment
from ..geometry.atlas import Atlas
from ..geometry.candidates import NARROWEST, Candidate
from ..geometry.chart import Chart
from ..geometry.coordinates import Coordinates
from ..geometry.density import ChartDensity, StretchedDensity
from ..supports import Circle, Support, circular, real
from ..tt.density import TTDensity
from .plan import NEAR
from .search import Fitted, LogDensityWithGradient, Search
from .tighten import far_ends_cut

__all__ = ["polish"]

POLISH_BELOW = 0.9  # effective share below which a flow is tried
TRIAL_STEPS = 200
FLOW_STEPS = 2500
POOL = 65_536
GAIN = 1.1  # of the effective share that a flow on something else than the answer so far must bring
HOPELESS = 5.0  # nats below the best bound
LEAST_EVALUATIONS = 2000
MUCH = 0.5  # effective share from which on an atlas is left as it is
GUARD = 0.05  # share of the draws that are of the product a flow began from, to bound the weights
GUARD_ESS = 0.1  # effective share of that product from which on it can


@dataclass(frozen=True)
class _Start:
    """Where a flow may start.

    Attributes:
        label: what it is, in words.
        base: a density of the coordinates that the flow acts on.
        chart: from those to ``x``.
        place: in words.
        candidate: whose density it is; None for a mixture over regions.
    """

    label: str
    base: Any
    chart: Chart
    place: str
    candidate: Candidate | None = None


def polish(search: Search, fitted: Fitted) -> Fitted:
    """A thin flow on top of a train, or of the products and trains that were tried; kept only if held-out weights say so."""
    if not search.gradient or fitted.ess >= (MUCH if fitted.candidate is None else POLISH_BELOW):
        return fitted
    with search.account.stage("flow"):
        found = _best_flow(search, _starts(search, fitted))
    if found is None:
        return fitted
    start, flow = found
    candidate = start.candidate
    search.notes.append(f"flow on {start.label}, {start.place}: {flow.info.message}")
    # The same density by two sets of weights: of the answer so far, only the flow's own comparison counts.
    own = candidate is not None and candidate is fitted.candidate
    if not flow.info.kept or (not own and flow.info.ess_after < GAIN * fitted.ess):
        return fitted
    density = ChartDensity(flow.requires_grad_(False), start.chart)
    guarded = _guarded(search, density, candidate)
    if guarded is not None:
        mixture, seen = guarded
        return Fitted(mixture, seen.ess, seen.elbo, f"{start.label} and flow")
    train = candidate.density if candidate is not None and isinstance(candidate.density, TTDensity) else None
    return Fitted(density, flow.info.ess_after, flow.info.elbo_after, f"{start.label} and flow", train)


def _guarded(search: Search, flow: ChartDensity, candidate: Candidate | None) -> tuple[Atlas, Assessment] | None:
    """A flow and a little of the product that it began from, and their weights; None where there is no good product.

    A flow may squeeze a corner of the space in which a single draw then weighs as much as a thousand others.
    """
    if candidate is None or candidate.kind != "product" or candidate.assessment.ess < GUARD_ESS:
        return None
    product = ChartDensity(far_ends_cut(search, candidate, safe=NARROWEST), candidate.chart)
    mixture = Atlas([flow, product], torch.tensor([1 - GUARD, GUARD], dtype=torch.float64).log())
    try:
        return mixture, search.weigh(mixture)
    except BudgetExhausted:
        return None


def _starts(search: Search, fitted: Fitted) -> list[_Start]:
    """The answer so far if it is near, else the best train; the best product; the best mixture over regions.

    Best is the highest bound of the evidence. It says how much there is to gain by training; an effective share is decided
    by a few draws.
    """
    ranked = sorted(search.seen, key=lambda c: c.assessment.elbo, reverse=True)
    product = next((c for c in ranked if c.kind == "product"), None)
    train = next((c for c in ranked if c.kind == "train"), None)
    own = fitted.candidate if fitted.ess > NEAR else train
    candidates = [c for c in (own, product if product is not own else None) if c is not None]
    atlas = max(search.atlases, key=lambda tried: tried.seen.elbo, default=None)
    bound = max((c.assessment.elbo for c in candidates), default=-math.inf)
    if atlas is None or atlas.seen.elbo - HOPELESS < bound or not bool(search.coordinates.line.all()):
        near = [c for c in candidates if c.assessment.elbo > bound - HOPELESS]
        own_coordinates = [c for c in ranked if c.kind == "product" and c.chart.axis_aligned and c not in near][:1]
        near += own_coordinates if _is_local(search) else []
        return [start for c in near for start in _places(search, c)]
    # Only where nothing else is near: a flow closes the gaps between overlapping regions slowly.
    parts = [ChartDensity(part.base, _of_lines(part.chart)) for part in atlas.density.parts]
    identity = Chart.identity(search.coordinates, label="atlas")
    return [_Start("atlas", Atlas(parts, atlas.density.log_shares), identity, "after the mixing")]


def _is_local(search: Search) -> bool:
    """Whether each of the user's coordinates acts on few others, which a flow can make much of; by the highest maximum."""
    precisions = search.cloud.precisions
    if precisions is None or not len(precisions):
        return False
    scale = precisions[0].diagonal().clamp_min(1e-300).sqrt()
    return nearness((precisions[0] / (scale[:, None] * scale)).abs().fill_diagonal_(0.0)) is not None


def _places(search: Search, candidate: Candidate) -> list[_Start]:
    """In the columns of the chart; and, where it mixes them, after the mixing: a lattice is local in its own sites alone."""
    chart, coordinates, label = candidate.chart, search.coordinates, candidate.label
    density = far_ends_cut(search, candidate, safe=NARROWEST)
    stretched = StretchedDensity(density, chart.stretch)
    starts = [_Start(label, stretched, chart.unstretched(), "before the mixing", candidate)] if chart.smooth else []
    if chart.axis_aligned or not bool((coordinates.line | coordinates.circle).all()):
        return starts
    identity = Chart.identity(coordinates, label=chart.label)
    return [*starts, _Start(label, ChartDensity(density, _of_lines(chart)), identity, "after the mixing", candidate)]


def _of_lines(chart: Chart) -> Chart:
    """The same chart of ``t`` instead of ``x``: lines, and angles as they are."""
    kinds = [circular(kind.lower, kind.upper) if isinstance(kind, Circle) else real for kind in chart.support.kinds]
    return replace(chart, coordinates=Coordinates(Support.parse(kinds)))


def _best_flow(search: Search, starts: list[_Start]) -> tuple[_Start, Any] | None:
    """A flow on the only start; or short ones on all, and the best of them trained to the end if it helps at all."""
    several = len(starts) > 1
    tried = [(start, _flow(search, start, None, TRIAL_STEPS if several else FLOW_STEPS)) for start in starts]
    flows = [(start, flow) for start, flow in tried if flow is not None]
    if not flows:
        return None
    start, flow = max(flows, key=lambda found: _bound(search, *found)) if several else flows[0]
    if several and flow.info.kept:
        flow = _flow(search, start, flow, FLOW_STEPS) or flow
    return start, flow


def _bound(search: Search, start: _Start, flow: Any) -> float:
    """Of the evidence, without the twentieth of the draws that is worst: after a short training a few of them decide the rest."""
    try:
        return search.weigh(ChartDensity(flow, start.chart)).elbo
    except BudgetExhausted:
        return -math.inf


def _flow(search: Search, start: _Start, begun: Any, steps: int) -> Any:
    """A flow from a start, or from one already begun if there is one; None if it cannot be paid for or fails.

    Without patience: what a short training has annealed is lost while the learning rate is high, and comes back late.
    """
    coordinates = search.coordinates

    def log_density(s: Tensor) -> Tensor:
        t, slope = start.chart.to_t(s)
        x, outer = coordinates.to_x(t)
        usable = torch.isfinite(x).all(-1) & torch.isfinite(outer)
        anchor = coordinates.to_x(torch.zeros_like(t[:1]))[0]
        values = _Differentiable.apply(torch.where(usable[:, None], x, anchor), search.density)
        return torch.where(usable, values + slope + outer, -math.inf)

    spend = search.left(0.7)
    if spend is not None and spend < LEAST_EVALUATIONS:
        return None
    try:
        return flow_training.fit(
            start.base, log_density, transforms=None if begun is None else list(begun.transforms), budget=spend,
            generator=search.generator, steps=steps, pool_size=POOL,
        )  # fmt: skip
    except (BudgetExhausted, EvaluationError, ValueError) as failure:
        search.notes.append(f"flow failed: {failure}")
        return None


class _Differentiable(torch.autograd.Function):
    """A log-density as a differentiable function: values and gradients come from it together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, density: LogDensityWithGradient) -> Tensor:
        if ctx.needs_input_grad[0]:
            values, slopes = density.value_and_gradient(x)
            ctx.save_for_backward(slopes.to(x))
            return values.to(x)
        return density(x).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None
