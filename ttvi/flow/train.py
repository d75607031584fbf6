"""Training a flow: on a log-density, or on samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..tt.arguments import check_columns
from ..typing import LogDensity
from .flow import Flow
from .halves import interactions
from .loop import Look, Loop
from .objectives import Counted, Loss, Pool, likelihood
from .report import FlowRecord
from .setup import (
    base_only,
    check_numbers,
    check_samples,
    judged,
    moments,
    own_generator,
    settings_of,
    started,
    typical,
    with_transforms,
)
from .trainer import Plan, Trainer
from .transform import Transform
from .verdict import compare, compare_samples

__all__ = ["Objective", "fit", "fit_samples"]

Objective = Literal["mixed", "path", "reverse", "forward"]
HIDDEN = 128  # of the second hidden layer of the default couplings, whose many outputs are most of the price, and the least of the first
LAYERS = 6  # of couplings
HIDDEN_PER_COORDINATE, MOST_HIDDEN = 4, 256
OBJECTIVES = ("mixed", "path", "reverse", "forward")
LOOKS = 16  # draws at which second derivatives are taken
LOOKS_SHARE = 0.02  # of the budget, for these
MOST_LOOKED_AT = 1024
MOST_COORDINATES = 512
ENOUGH = 1e-4  # nats of symmetrised divergence: an effective sample fraction of 0.9999


def fit(
    base: Any,
    log_density: LogDensity,
    *,
    transforms: Sequence[Transform] | None = None,
    steps: int = 2000,
    batch_size: int = 256,
    pool_size: int = 131072,
    objective: Objective = "mixed",
    learning_rate: float = 6e-3,
    anneal: float = 0.0,
    patience: int | None = None,
    train_base: bool = False,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    checkpoint: Any = None,
    callback: Callable[[FlowRecord], None] | None = None,
    progress: bool = False,
) -> Flow:
    r"""Bring a base closer to an unnormalised log-density by transforms that start as the identity.

    The base is drawn from once, into a pool that every step takes its batch from, and is never differentiated:

    ============  ===========================================================================================
    objective     what is minimised
    ============  ===========================================================================================
    ``mixed``     half ``path``, half the forward divergence KL(p‖q) by the weights of the same draws
    ``path``      the reverse divergence KL(q‖p) without the score of the flow's own parameters
    ``reverse``   the reverse divergence as it stands; with ``train_base`` through reparameterised draws
    ``forward``   the weighted log-likelihood of draws of base and flow; needs no gradient of the log-density
    ============  ===========================================================================================

    The trained flow is compared with its base on fresh draws, in the precision of the base, and kept only if its
    effective sample fraction is significantly higher; otherwise the flow returned *is* the base: a fit never leaves worse.

    Args:
        base: the distribution to start from: a :class:`~ttvi.tt.TTDensity`, one of torch, or another flow.
        log_density: ``(batch, d)`` to ``(batch,)``, differentiable in its argument but for ``forward`` (taken by itself
            where there is no gradient). Called in the dtype of the base.
        transforms: copies of these are trained; by default :func:`default_transforms` in the units of the base.
        steps: gradient steps.
        batch_size: draws per step; each costs one evaluation, with its gradient.
        pool_size: the most draws of the base that the steps choose from; no more than they use.
        objective: see above.
        learning_rate: of Adam; it rises over the first steps and falls along a cosine.
        anneal: share of the steps over which the target's inverse temperature rises to one, in [0, 1).
        patience: steps without gain on held-out draws before it stops; ``None`` runs to the end.
        train_base: train the cores of the base too; needs ``forward`` (the default then) or ``reverse``.
        budget: the most evaluations to spend, checks included; fewer or smaller steps are made to fit.
        generator, seed: source of randomness; ``seed`` makes a generator.
        dtype: in which the transforms are trained; the flow returned has the dtype of the base.
        device: where to compute; by default where the base is.
        checkpoint: a file (extra ``io``) that training continues from, given the same arguments and seed.
        callback: called with a :class:`FlowRecord` at every look at held-out draws.
        progress: show a bar (extra ``progress``).

    Returns:
        The flow; ``flow.info`` is the :class:`FlowInfo`.

    Raises:
        TypeError, ValueError: an argument is out of range, or the log-density returns something else.
        EvaluationError: the log-density raised.

    References:
        Khoo, Lindsey, Zhao: Tensorizing flows: a tool for variational inference (2023).
        Vaitl, Nicoli, Nakajima, Kessel: Gradients should stay on path (2022).

    >>> from torch.distributions import MultivariateNormal
    >>> base = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    >>> banana = lambda x: -0.5 * (x[:, 0] ** 2 + (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2)
    >>> flow = fit(base, banana, steps=100, batch_size=128, pool_size=4096, seed=0)
    >>> flow.info.kept, flow.info.ess_after > 2 * flow.info.ess_before
    (True, True)
    """
    start = time.perf_counter()
    check_numbers("fit", steps=steps, batch_size=batch_size, pool_size=pool_size, budget=budget, patience=patience)
    objective = _checked(log_density, objective, anneal, learning_rate, train_base)
    flow = started(base, device, train_base)
    rng = own_generator(generator, seed, flow.device, "fit")
    target = Counted(log_density, budget=budget, caller="fit", dtype=flow.dtype, device=flow.device)
    looks = _looks(flow.dim, budget) if transforms is None else 0
    plan = Plan.make(steps, batch_size, budget if budget is None else budget - looks * (flow.dim + 1))
    if plan.steps < 1:
        return base_only(base, flow, objective, start, "budget exhausted", "the budget covers no step", target)
    objective = _affordable(objective, target, flow.base_module.sample(torch.Size([2]), rng))
    held = Pool.draw(flow, plan.held, rng, score=False)
    pool = Pool.draw(flow, min(pool_size, plan.pool(objective)), rng, score=objective in ("mixed", "path"))
    hidden = (min(MOST_HIDDEN, max(HIDDEN, HIDDEN_PER_COORDINATE * flow.dim)), HIDDEN)
    dependence = _dependence(target, pool.z, looks) if objective != "forward" and looks else None
    flow = with_transforms(
        flow, transforms, pool.z, dtype, rng, train_base, hidden=hidden, dependence=dependence, num_layers=LAYERS
    )
    if not len(flow.transforms) and not train_base:
        return base_only(base, flow, objective, start, "nothing to train", "no coordinate can move", target)
    settings = settings_of(
        flow, plan, patience, learning_rate, ENOUGH, points=pool.z, objective=objective, anneal=anneal
    )
    trainer = Trainer(flow, target, pool, plan, objective, anneal, rng)
    loop = Loop(
        flow,
        trainer.loss,
        lambda: trainer.look(held),
        settings,
        generator=rng,
        target=target,
        keeper=trainer,
        checkpoint=checkpoint,
        callback=callback,
        progress=progress,
    )
    loop.run()
    flow.transforms.to(flow.dtype)
    original = Flow(base).to(flow.device)
    verdict = compare(flow, original, target, plan.verdict, rng)
    return judged(flow, original, verdict, loop, objective, start, target)


def _checked(
    log_density: object, objective: Objective, anneal: float, learning_rate: float, train_base: bool
) -> Objective:
    """The objective, after a look at the arguments."""
    if not callable(log_density):
        raise TypeError(
            f"fit: expected a callable log_density; got {type(log_density).__name__}. Pass a function of a batch."
        )
    if objective not in OBJECTIVES or not 0 <= anneal < 1 or not learning_rate > 0:
        raise ValueError(
            f"fit: expected objective in {OBJECTIVES}, 0 <= anneal < 1 and learning_rate > 0; "
            f"got {objective!r}, {anneal} and {learning_rate}. Leave them out for the defaults."
        )
    if train_base and objective == "path":
        raise ValueError('fit: expected objective "forward" or "reverse" with train_base; got "path". Name one.')
    return "forward" if train_base and objective == "mixed" else objective


def _looks(dim: int, budget: int | None) -> int:
    """At how many draws second derivatives are taken, which cost an evaluation per coordinate."""
    if not 4 <= dim <= MOST_COORDINATES:
        return 0
    return LOOKS if budget is None else min(LOOKS, int(LOOKS_SHARE * budget) // (dim + 1))


def _dependence(target: Counted, z: Tensor, count: int) -> Tensor:
    """How strongly coordinates act on each other at the most ordinary of the base's draws."""
    loc, scale = typical(z)
    ordinary = ((z[:MOST_LOOKED_AT] - loc) / scale).abs().amax(1).argsort()[:count]

    return interactions(lambda x: target.gradients(x)[1], z[ordinary], scale)


def _affordable(objective: Objective, target: Counted, probe: Tensor) -> Objective:
    """The objective, or the weighted likelihood where there is no gradient and the choice was left to the fit."""
    if objective == "forward" or target.differentiable(probe):
        return objective
    if objective == "mixed":
        return "forward"
    raise ValueError(
        f'fit: expected a differentiable log_density with objective="{objective}"; its values carry no gradient. '
        'Compute with torch operations, or pass objective="forward".'
    )


def fit_samples(
    base: Any,
    x: Tensor,
    *,
    context: Tensor | None = None,
    transforms: Sequence[Transform] | None = None,
    steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    validation: float = 0.1,
    patience: int | None = None,
    train_base: bool = False,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    checkpoint: Any = None,
    callback: Callable[[FlowRecord], None] | None = None,
    progress: bool = False,
) -> Flow:
    r"""Fit a flow to samples by maximum likelihood: density estimation, from any base to any data.

    With a context it is the conditional density :math:`q(x \mid c)`; the state with the highest held-out log-likelihood is
    restored, and kept only if it is significantly above that of the base.

    Args:
        base: the distribution to start from, on the scale of the data; ``None`` is the normal distribution with their
            mean and covariance.
        x: samples, shape ``(n, d)``.
        context: what each was drawn under, shape ``(n, c)``.
        transforms: copies of these are trained; by default :func:`default_transforms` in the units of the data.
        steps: gradient steps.
        batch_size: samples per step.
        learning_rate: of Adam; it rises over the first steps and falls along a cosine.
        validation: share of the samples held out, in (0, 1).
        patience: steps without gain on them before it stops; ``None`` runs to the end.
        train_base: train the cores of the base too.
        generator, seed: source of randomness; ``seed`` makes a generator.
        dtype: in which the transforms are trained; the flow returned has the dtype of the base.
        device: where to compute; by default where the base is.
        checkpoint: a file (extra ``io``) that training continues from, given the same arguments and seed.
        callback: called with a :class:`FlowRecord` at every look at held-out samples.
        progress: show a bar (extra ``progress``).

    Returns:
        The flow; ``flow.info`` is the :class:`FlowInfo`.

    Raises:
        TypeError, ValueError: an argument is out of range, or shapes differ.

    References:
        Papamakarios, Nalisnick, Rezende, Mohamed, Lakshminarayanan: Normalizing flows for probabilistic modeling and
        inference (2021).

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2000, 2, generator=g, dtype=torch.float64).exp()
    >>> flow = fit_samples(None, x, steps=100, seed=0)
    >>> flow.info.elbo_after > flow.info.elbo_before + 0.5
    True
    """
    start = time.perf_counter()
    check_numbers("fit_samples", steps=steps, batch_size=batch_size, patience=patience)
    x, context = check_samples(x, context, validation, learning_rate)
    if base is None:
        base = moments(x)
    flow = started(base, device, train_base)
    x = check_columns(x, flow.dim, "fit_samples").to(flow.device, flow.dtype)
    context = None if context is None else context.to(flow.device, flow.dtype)
    rng = own_generator(generator, seed, flow.device, "fit_samples")
    order = torch.randperm(len(x), generator=rng, device=rng.device)
    count = min(len(x) - 1, max(1, round(validation * len(x))))
    held, train = order[:count], order[count:]
    spread = torch.cat([x[train], flow.base_module.sample(torch.Size([min(len(x), 4096)]), rng)])
    flow = with_transforms(flow, transforms, spread, dtype, rng, train_base, context=context, boxes=True)
    plan = Plan.make(steps, batch_size, None)

    def loss(step: int) -> Loss:
        index = train[torch.randint(len(train), (batch_size,), generator=rng, device=rng.device)]
        return likelihood(flow, x[index], context=None if context is None else context[index])

    def held_out(model: Flow) -> Tensor:
        with torch.no_grad():
            return torch.cat([model.log_prob(x[k], None if context is None else context[k]) for k in held.split(8192)])

    def look() -> Look:
        value = float(held_out(flow).mean())
        return Look(-value if math.isfinite(value) else math.inf, value)

    settings = settings_of(flow, plan, patience, learning_rate, -math.inf, points=x, objective="likelihood")
    loop = Loop(flow, loss, look, settings, generator=rng, checkpoint=checkpoint, callback=callback, progress=progress)
    loop.run()
    flow.transforms.to(flow.dtype)
    original = Flow(base, context_dim=flow.context_dim).to(flow.device)
    verdict = compare_samples(held_out(original), held_out(flow))
    return judged(flow, original, verdict, loop, "likelihood", start, None)
