"""From a log-density to a posterior: the one call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import BudgetExhausted
from .evaluation import Evaluations
from .geometry.candidates import GEOMETRIES
from .geometry.coordinates import Coordinates
from .posterior import Posterior
from .stages.arrange import arrange, in_given_order
from .stages.bridges import bridge_if_better
from .stages.certificate import census, certify, lacking, unseen
from .stages.choose import choose, look_around
from .stages.company import joined
from .stages.cover import cover, safeguard
from .stages.equilibrate import equilibrate
from .stages.explore import explore, fallback
from .stages.fold import fold, unfold
from .stages.nest import nest
from .stages.plan import Plan
from .stages.polish import polish
from .stages.regions import split, split_first, split_if_better
from .stages.search import Fitted, Search
from .stages.tighten import tighten
from .stages.training import raise_ranks, sharpen, train, worth_more
from .target import Target
from .tt.arguments import seeded
from .verdict import Diagnostics

__all__ = ["fit"]

CERTIFICATE = 16_384
PRIOR_DRAWS = 512


def fit(
    log_density: Callable[[Any], Any] | Target,
    *,
    dim: int | None = None,
    support: Any = None,
    names: Sequence[str] | None = None,
    budget: int | None = None,
    tol: float = 3e-2,
    max_rank: int = 64,
    geometry: str = "auto",
    flow: bool = True,
    init_points: Any = None,
    gradient: Any = "auto",
    batching: str = "auto",
    max_batch: int | None = None,
    executor: Any = None,
    checkpoint: Any = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Posterior:
    r"""Approximate an unnormalised log-density by a normalised one, and say how good it is.

    Local maxima and a tempered population say where the mass is; coordinates are chosen by trying; a tensor train is
    built in them by cross approximation of :math:`\sqrt{\tilde p}`; where one train is not enough a mixture of trains, a
    composition of trains, or a thin flow follows; fresh draws and their weights certify the answer.

    Args:
        log_density: log p̃ (nats), ``(batch, dim) -> (batch,)``, or of a row; or a :class:`Target`.
        dim, support, names: see :class:`Target`.
        budget: the most evaluations; the best answer for the money. Gradients cost one evaluation per point.
        tol: relative L2 tolerance of the train's square root; the effective share of the draws falls short of one by about
            its square.
        max_rank: cap on the ranks.
        geometry: "auto", or "axis" (the user's coordinates, exact marginals), "whitened", "triangular", "atlas".
        flow: whether couplings may be trained on top (needs gradients).
        init_points: points of good density, shape (m, dim): modes that must not be missed.
        gradient, batching, max_batch, executor: see :class:`Target`.
        checkpoint: a directory for the evaluation log; a fit that was interrupted continues from it, given the same
            arguments and seed, without paying twice.
        generator, seed: source of randomness; seed 0 when neither is given.
        dtype: what ``log_density`` is given.
        device: where it is given it.
        progress: show a bar (extra ``progress``).

    Returns:
        The posterior. A budget that ends leaves the best answer so far; read ``posterior.verdict``.

    Raises:
        TypeError, ValueError: an argument, or what the function returns, is of a wrong kind.
        EvaluationError: the function raises, or is zero, everywhere it was tried.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
        Cui and Dolgov, "Deep composition of tensor-trains using squared inverse Rosenblatt transports" (2022).

    >>> posterior = fit(lambda x: -0.5 * (x**2).sum(-1), dim=2, seed=0)
    >>> value, error = posterior.log_evidence
    >>> round(value, 2), posterior.verdict.level
    (1.84, 'good')
    """
    start = time.perf_counter()
    target = _target(
        log_density, dim=dim, support=support, names=names, init_points=init_points, gradient=gradient,
        batching=batching, max_batch=max_batch, executor=executor, dtype=dtype, device=device,
    )  # fmt: skip
    plan = _plan(budget, tol, max_rank, geometry, flow)
    seed = 0 if seed is None and generator is None else seed
    rng = seeded(generator, seed, torch.device("cpu"), "fit")
    assert rng is not None
    remembered = checkpoint is not None or executor is not None or (budget is not None and budget <= 1_000_000)
    account = target.session(
        budget=budget, checkpoint=checkpoint, cache=remembered, executor=executor, max_batch=max_batch,
        progress=_bar(budget) if progress else None,
    )  # fmt: skip
    try:
        search = Search(account, Coordinates(target.support), plan, rng, account.has_gradient)
        best = _approximate(search, target)
        return _posterior(search, target, best, seed or 0, start)
    finally:
        account.close()


def _approximate(search: Search, target: Target) -> Fitted:
    """Explore, and fit the density, or one half of it."""
    init, prior = _known_points(search, target)
    try:
        explore(search, init=init, prior=prior)
    except BudgetExhausted:
        return fallback(search)
    if search.plan.geometry == "atlas" and (atlas := split(search)) is not None:
        return atlas
    auto = search.plan.geometry == "auto"
    folded = fold(search) if auto else None
    arranged = arrange(search) if auto else None
    best = _fitted(search)
    if arranged is not None:
        best = in_given_order(search, arranged, best)
    return best if folded is None else unfold(search, folded, best)


def _fitted(search: Search) -> Fitted:
    """Columns, charts and trains, and what else the weights ask for."""
    try:
        equilibrate(search)
        nest(search)
        looked = look_around(search)
    except BudgetExhausted:
        return fallback(search)
    auto = search.plan.geometry == "auto"
    best = (split_first(search, looked) if auto else None) or train(search, choose(search, looked))
    if auto:
        best = split_if_better(search, best)
    if worth_more(search, best):
        best = raise_ranks(search, best)
    best = sharpen(search, best)
    best = cover(search, best)
    if auto:
        best = bridge_if_better(search, best)
    if search.plan.flow:
        best = polish(search, best)
    best = tighten(search, best)
    return joined(search, safeguard(search, best))


def _known_points(search: Search, target: Target) -> tuple[Tensor | None, Tensor | None]:
    """The user's points, and draws of the prior, in working coordinates."""
    coordinates = search.coordinates
    init = None if target.init_points is None else coordinates.to_t(target.init_points)
    if target.prior is None:
        return init, None
    prior = coordinates.to_t(target.sample_prior(PRIOR_DRAWS, generator=search.generator))
    return init, prior[torch.isfinite(prior).all(1)]


def _posterior(search: Search, target: Target, best: Fitted, seed: int, start: float) -> Posterior:
    """The certificate and the report."""
    account = search.account
    draws = certify(search, best.density)
    info = None if best.train is None else best.train.info
    report: dict[str, Any] = {
        "num_evaluations": account.num_evaluations,
        "num_nan": account.num_nan,
        "num_infinite": account.num_posinf,
        "num_failed": account.num_failed,
        "status": "" if info is None else info.status,
        "ranks": () if best.train is None else tuple(best.train.train.ranks),
        "mode_sizes": () if best.train is None else tuple(best.train.train.mode_sizes),
        "train_error": math.nan if info is None else float(info.error),
        "geometry": (f"the answer is: {best.label}", *search.notes),
        "candidates": tuple(search.tried),
    }
    evidence = best.elbo if draws is None else draws.certificate().log_evidence
    report["mode_census"] = census(search, best.density, evidence)
    missing, _ = unseen(search, best.density, evidence)
    report["missing_mass"] = missing if draws is None else max(missing, lacking(search, best.density, draws))
    report["stages"] = account.stages
    report["seconds"] = time.perf_counter() - start
    if draws is None:
        diagnostics = Diagnostics(**{**report, "status": "budget exhausted"})
        x, log_weights = best.density.sample((1024,), generator=search.generator), None
    else:
        diagnostics = Diagnostics.from_draws(draws, **report)
        x, log_weights = draws.x, draws.log_weights
    return Posterior(
        best.density, target.support, draws=x, log_weights=log_weights, diagnostics=diagnostics,
        log_density=_plain(target), seed=seed,
    )  # fmt: skip


def _plain(target: Target) -> Evaluations:
    """The log-density for corrected draws: counted anew, without bound."""
    return target.session(cache=False)


def _target(log_density: Any, **options: Any) -> Target:
    if not isinstance(log_density, Target):
        return Target(log_density, caller="fit", **options)
    own = ("dim", "support", "names", "init_points")
    given = [name for name in own if options[name] is not None]
    if given:
        raise ValueError(
            f"fit: expected {', '.join(given)} to be left out with a Target, which carries them; got them. Give them to the Target."
        )
    return log_density


def _plan(budget: int | None, tol: float, max_rank: int, geometry: str, flow: bool) -> Plan:
    if geometry not in GEOMETRIES:
        raise ValueError(f'fit: expected geometry in {GEOMETRIES}; got {geometry!r}. Leave it at "auto".')
    if not (isinstance(tol, float | int) and math.isfinite(tol) and 0 < tol < 1):
        raise ValueError(f"fit: expected 0 < tol < 1; got {tol}. The default is 3e-2.")
    for name, value in (("budget", budget), ("max_rank", max_rank)):
        if value is not None and (isinstance(value, bool | str) or int(value) != value or value < 1):
            raise ValueError(
                f"fit: expected {name} to be a positive integer; got {value}. Leave it out for the default."
            )
    certificate = CERTIFICATE if budget is None else min(CERTIFICATE, max(1, budget // 10))
    return Plan(budget, float(tol), int(max_rank), geometry, bool(flow), certificate)


def _bar(budget: int | None) -> Callable[[Evaluations], None]:
    """A progress bar over the evaluations."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        from .errors import MissingExtraError

        raise MissingExtraError("fit", "tqdm", "progress") from None
    bar = tqdm(total=budget, unit=" evaluations", unit_scale=True)

    def update(account: Evaluations) -> None:
        bar.update(account.num_evaluations - bar.n)

    return update
