"""A thin flow on top of what there is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from ..evaluation import Evaluations
from ..flow import train as flow_training
from ..geometry.candidates import Candidate
from ..geometry.density import ChartDensity, StretchedDensity
from .plan import NEAR
from .search import Fitted, Search

__all__ = ["polish"]

POLISH_BELOW = 0.9  # effective share below which a flow is tried
TRIAL_STEPS = 300
FLOW_STEPS = 2500
POOL = 65_536
HOPELESS = 5.0  # nats below the best bound
LEAST_EVALUATIONS = 2000
MUCH = 0.5  # effective share from which on an atlas is left as it is


def polish(search: Search, fitted: Fitted) -> Fitted:
    """A thin flow on top of a train, or of the products and trains that were tried; kept only if held-out weights say so."""
    if not search.gradient or fitted.ess >= (MUCH if fitted.candidate is None else POLISH_BELOW):
        return fitted
    with search.account.stage("flow"):
        found = _best_flow(search, _bases(search, fitted))
    if found is None:
        return fitted
    candidate, flow = found
    search.notes.append(f"flow on {candidate.label}: {flow.info.message}")
    # The same density by two sets of weights: of the answer so far, only the flow's own comparison counts.
    if not flow.info.kept or (candidate is not fitted.candidate and flow.info.ess_after < fitted.ess):
        return fitted
    density = ChartDensity(flow, candidate.chart.unstretched())
    return Fitted(density, flow.info.ess_after, flow.info.elbo_after, f"{candidate.label} and flow", candidate.density)


def _bases(search: Search, fitted: Fitted) -> list[Candidate]:
    """What a flow may start from: the answer so far, and the products and trains of the highest bound of the evidence.

    The bound says how much there is to gain by training; an effective share is decided by a few draws.
    """
    ranked = sorted(search.seen, key=lambda c: c.assessment.elbo, reverse=True)
    products = [c for c in ranked if c.kind == "product"][:1]
    trains = [c for c in ranked if c.kind == "train"][:1]
    own = [fitted.candidate] if fitted.candidate is not None and fitted.ess > NEAR else []
    bases: list[Candidate] = []
    for candidate in own + products + trains:
        if all(candidate is not other for other in bases):
            bases.append(candidate)
    least = max(c.assessment.elbo for c in bases) - HOPELESS
    return [c for c in bases if c in own or c.assessment.elbo > least]


def _best_flow(search: Search, bases: list[Candidate]) -> tuple[Candidate, Any] | None:
    """A flow on the only base; or short ones on all, and the best of them trained to the end if it helps at all."""
    several = len(bases) > 1
    tried = [(c, _flow(search, c, None, TRIAL_STEPS if several else FLOW_STEPS)) for c in bases]
    flows = [(candidate, flow) for candidate, flow in tried if flow is not None]
    if not flows:
        return None
    candidate, flow = max(flows, key=lambda found: _bound(found[1]))
    if several and flow.info.kept:
        flow = _flow(search, candidate, flow, FLOW_STEPS) or flow
    return candidate, flow


def _bound(flow: Any) -> float:
    bound = float(flow.info.elbo_after)
    return bound if math.isfinite(bound) else -math.inf


def _flow(search: Search, candidate: Candidate, begun: Any, steps: int) -> Any:
    """A flow on a candidate, from one already begun if there is one; None if it cannot be paid for or fails."""
    chart, coordinates = candidate.chart.unstretched(), search.coordinates
    base = StretchedDensity(candidate.density, candidate.chart.stretch)

    def log_density(s: Tensor) -> Tensor:
        t, slope = chart.to_t(s)
        x, outer = coordinates.to_x(t)
        usable = torch.isfinite(x).all(-1) & torch.isfinite(outer)
        anchor = coordinates.to_x(torch.zeros_like(t[:1]))[0]
        values = _Differentiable.apply(torch.where(usable[:, None], x, anchor), search.account)
        return torch.where(usable, values + slope + outer, -math.inf)

    spend = search.left(0.7)
    if spend is not None and spend < LEAST_EVALUATIONS:
        return None
    try:
        return flow_training.fit(
            base, log_density, transforms=None if begun is None else list(begun.transforms), budget=spend,
            generator=search.generator, steps=steps, patience=max(steps // 3, 300), pool_size=POOL,
        )  # fmt: skip
    except (BudgetExhausted, EvaluationError, ValueError) as failure:
        search.notes.append(f"flow failed: {failure}")
        return None


class _Differentiable(torch.autograd.Function):
    """An account as a differentiable function: values and gradients come from it together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, account: Evaluations) -> Tensor:
        if ctx.needs_input_grad[0]:
            values, slopes = account.value_and_gradient(x)
            ctx.save_for_backward(slopes.to(x))
            return values.to(x)
        return account(x).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        return grad[:, None] * slopes, None
