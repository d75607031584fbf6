"""Before and after the training of a flow: arguments, units, and the flow or its base with the report."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ..tt.arguments import seeded
from ..tt.basis import Categorical, Fourier, Legendre, Piecewise
from .conditioner import Kind
from .defaults import default_transforms
from .flow import Flow
from .loop import Loop, Settings
from .objectives import Counted
from .report import FlowInfo, FlowStatus
from .trainer import Plan
from .transform import Transform
from .verdict import Comparison

__all__ = [
    "base_only",
    "check_numbers",
    "check_samples",
    "coordinate_kinds",
    "judged",
    "moments",
    "own_generator",
    "settings_of",
    "started",
    "typical",
    "with_transforms",
]

MOST_TYPICAL = 8192
SMALL_SPREAD = 1e-12


def check_numbers(caller: str, **numbers: int | None) -> None:
    """Positive integers, or nothing.

    Raises:
        ValueError: one is neither.
    """
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise ValueError(
                f"{caller}: expected {name} to be a positive integer; got {value}. Leave it out for the default."
            )


def check_samples(x: object, context: object, validation: float, learning_rate: float) -> tuple[Tensor, Tensor | None]:
    """Samples and contexts of one length, finite.

    Raises:
        ValueError: they are not, or a number is out of range.
    """
    if not isinstance(x, Tensor) or x.dim() != 2 or len(x) < 2 or not bool(torch.isfinite(x).all()):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"fit_samples: expected finite samples of shape (n, d), n >= 2; got {got}. One row per sample, without NaN."
        )
    if context is not None and (
        not isinstance(context, Tensor)
        or context.dim() != 2
        or len(context) != len(x)
        or not bool(torch.isfinite(context).all())
    ):
        got = tuple(context.shape) if isinstance(context, Tensor) else type(context).__name__
        raise ValueError(
            f"fit_samples: expected a finite context of shape ({len(x)}, c); got {got}. One row per sample."
        )
    if not 0 < validation < 1 or not learning_rate > 0:
        raise ValueError(
            f"fit_samples: expected 0 < validation < 1 and learning_rate > 0; got {validation} and {learning_rate}. "
            "Leave them out for the defaults."
        )
    return x, context


def own_generator(
    generator: torch.Generator | None, seed: int | None, device: torch.device, caller: str
) -> torch.Generator:
    """A generator on the device of the flow, started from the one given, from the seed, or from torch's own."""
    given = seeded(generator, seed, torch.device("cpu"), caller)
    where = "cpu" if given is None else given.device
    start = int(torch.randint(2**62, (), generator=given, device=where))
    return torch.Generator(device).manual_seed(start)


def started(base: Any, device: torch.device | str | None, train_base: bool) -> Flow:
    """The base as a flow without transforms."""
    flow = Flow(base, train_base=train_base)
    return flow if device is None else flow.to(device)


def moments(x: Tensor) -> MultivariateNormal:
    """The normal distribution with mean and covariance of samples, in float64."""
    x = x.double()
    covariance = torch.atleast_2d(torch.cov(x.T))
    ridge = 1e-9 * covariance.diagonal().mean().clamp_min(SMALL_SPREAD)
    return MultivariateNormal(x.mean(0), covariance + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device))


def coordinate_kinds(base: Any, dim: int, *, boxes: bool = False) -> list[Kind]:
    """What the transforms need to know of each coordinate: real, circle or discrete; with ``boxes``, interval too.

    Samples lie in the box of the base, and one that a transform moved out would have probability zero. The mass of a
    log-density may lie outside.
    """
    if isinstance(base, Flow):
        return coordinate_kinds(base.base, dim, boxes=boxes and not len(base.transforms))
    kinds: list[Kind] = []
    for basis in getattr(base, "bases", [None] * dim):
        if isinstance(basis, Fourier):
            kinds.append(("circle", float(basis.lower), float(basis.upper)))
        elif isinstance(basis, Categorical):
            kinds.append(("discrete", 0, basis._require_size() - 1))
        elif boxes and isinstance(basis, Legendre | Piecewise):
            kinds.append(("interval", float(basis.lower), float(basis.upper)))
        else:
            kinds.append("real")
    return kinds


def with_transforms(
    flow: Flow,
    transforms: Sequence[Transform] | None,
    points: Tensor,
    dtype: torch.dtype,
    generator: torch.Generator,
    train_base: bool,
    *,
    context: Tensor | None = None,
    hidden: Sequence[int] = (64, 64),
    boxes: bool = False,
    dependence: Tensor | None = None,
    num_layers: int = 4,
) -> Flow:
    """The flow to train: copies of the transforms given, or the default ones in the units of the points."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"fit: expected a floating-point dtype; got {dtype}. Use torch.float32 or torch.float64.")
    context_dim = 0 if context is None else context.shape[1]
    if transforms is None:
        loc, scale = typical(points)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        parts = default_transforms(
            flow.dim,
            kinds=coordinate_kinds(flow.base, flow.dim, boxes=boxes),
            num_layers=num_layers,
            hidden=hidden,
            context_dim=context_dim,
            dependence=dependence,
            loc=loc,
            scale=scale,
            generator=torch.Generator().manual_seed(seed),
            dtype=dtype,
        )
    else:
        parts = [copy.deepcopy(transform).to(dtype) for transform in transforms]
    base = flow.base_module.detached()
    result = Flow(base, parts, context_dim=context_dim, train_base=train_base).to(flow.device)
    if context is not None:
        result._standardise_context(context.mean(0), context.std(0).clamp_min(SMALL_SPREAD))
    return result


def typical(points: Tensor) -> tuple[Tensor, Tensor]:
    """Median and half the distance of the outer sixths: draws of a base with heavy tails may be anywhere, even infinite."""
    points = points[torch.isfinite(points).all(1)][:MOST_TYPICAL]
    levels = torch.tensor([0.16, 0.5, 0.84], dtype=points.dtype, device=points.device)
    low, middle, high = torch.quantile(points, levels, dim=0)
    return middle, (0.5 * (high - low)).clamp_min(SMALL_SPREAD)


def settings_of(
    flow: Flow,
    plan: Plan,
    patience: int | None,
    learning_rate: float,
    enough: float,
    *,
    points: Tensor,
    **arguments: Any,
) -> Settings:
    """Numbers of the loop, and what a checkpoint must agree on: arguments, sizes of the parameters, and the draws."""
    fingerprint = {
        "steps": plan.steps,
        "batch_size": plan.batch,
        "learning_rate": learning_rate,
        "parameters": sum(parameter.numel() for parameter in flow.parameters() if parameter.requires_grad),
        "points": f"{tuple(points.shape)} {float(points.double().sum())!r}",
        **arguments,
    }
    return Settings(plan.steps, learning_rate, plan.check_every, patience, enough, fingerprint)


def base_only(
    base: Any, flow: Flow, objective: str, start: float, status: FlowStatus, message: str, target: Counted
) -> Flow:
    """The base as a flow, where nothing could be trained."""
    result = Flow(base).to(flow.device)
    nan = math.nan
    result.info = FlowInfo(
        status,
        f"{message}; the base is returned",
        objective,
        False,
        nan,
        nan,
        nan,
        nan,
        target.num_evaluations,
        target.num_invalid,
        0,
        0,
        0,
        time.perf_counter() - start,
    )
    return result


def judged(
    flow: Flow, original: Flow, verdict: Comparison, loop: Loop, objective: str, start: float, target: Counted | None
) -> Flow:
    """The flow if it is better, else its base, with the report."""
    result = flow if verdict.better else original
    if math.isnan(verdict.ess_before):
        change = f"held-out log-likelihood {verdict.elbo_before:.3f} -> {verdict.elbo_after:.3f}"
    else:
        change = f"effective sample fraction {verdict.ess_before:.3f} -> {verdict.ess_after:.3f}"
    outcome = "the flow is kept" if verdict.better else "no significant gain: the base is returned"
    result.info = FlowInfo(
        status=loop.status,
        message=f"{change}; {outcome}",
        objective=objective,
        kept=verdict.better,
        ess_before=verdict.ess_before,
        ess_after=verdict.ess_after,
        elbo_before=verdict.elbo_before,
        elbo_after=verdict.elbo_after,
        num_evaluations=0 if target is None else target.num_evaluations,
        num_invalid=0 if target is None else target.num_invalid,
        steps=loop.step,
        skipped=loop.skipped,
        best_step=loop.best_step,
        seconds=time.perf_counter() - start,
        history=tuple(loop.history),
    )
    for parameter in result.parameters():
        parameter.grad = None
    return result
