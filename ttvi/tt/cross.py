"""Cross approximation of densities (tempered) and functions: the drivers that decide what to sweep, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from .algebra import evaluate_indices
from .cache import Grid, GridFunction
from .canonical import orthogonalize, truncate
from .guard import search
from .report import CrossInfo, Status, SweepRecord
from .rivals import misfits
from .sweep import CrossState, HalfSweep, Validation, half_sweep, validate
from .train import TensorTrain

__all__ = ["CrossOptions", "CrossResult", "Validated", "cross_density", "effective_fraction"]


WRONG = 0.5  # of a coefficient, from which on a point is still to be learnt


@dataclass(frozen=True)
class CrossOptions:
    """Knobs of a cross approximation; the defaults are meant to be left alone.

    Attributes:
        tol: relative L2 error aimed at.
        max_rank: cap on every rank.
        enrichment: test fibers per cut and half-sweep.
        validation: independent draws per error estimate.
        ladder_tol: truncation while tempering; the trains there only have to overlap.
        ladder_rank: cap while tempering.
        ladder_draws: draws that measure the overlap.
        ladder_ess: effective fraction of them that the next temperature keeps.
        ladder_growth: the least factor between two temperatures: ranks and pivots, not weights, carry the modes along.
        guard_starts: starts of every search for missed modes.
        guard_rounds: empty searches in a row before a fit may call itself converged.
        max_half_sweeps: at the target temperature.
    """

    tol: float = 1e-4
    max_rank: int = 100
    enrichment: int = 3
    validation: int = 512
    ladder_tol: float = 0.3
    ladder_rank: int = 24
    ladder_draws: int = 256
    ladder_ess: float = 0.1
    ladder_growth: float = 1.6
    guard_starts: int = 6
    guard_rounds: int = 2
    max_half_sweeps: int = 40


class Target(Protocol):
    """What a half-sweep and the refinement need to know of the tensor that is approximated."""

    beta: float

    def transform(self, values: Tensor) -> Tensor:
        """From stored values to entries, weights left out, divided by ``exp(log_scale())``."""

    def log_scale(self) -> float:
        """The logarithm that :meth:`transform` takes out."""

    def coefficients(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mantissa and log of the coefficients at explicit indices."""

    def validate(self, train: TensorTrain, count: int, generator: torch.Generator | None) -> Validation:
        """Compare a train with the function at ``count`` fresh points."""

    def nearer(self, old: Validated, new: Validated) -> bool:
        """Whether the older of two trains is the better one."""


class Validated(NamedTuple):
    """A train, the pivots that belong to it, the direction of the next half-sweep, and what fresh points say of it."""

    train: TensorTrain
    state: CrossState
    forward: bool
    check: Validation


@dataclass
class _Run:
    """The state of a fit while it runs: index sets, the current train, and the history."""

    grid: GridFunction
    root_weights: list[Tensor]
    options: CrossOptions
    generator: torch.Generator | None
    callback: Callable[[SweepRecord], None] | None
    state: CrossState
    forward: bool = True
    train: TensorTrain | None = None
    beta: float = 0.0
    history: list[SweepRecord] = field(default_factory=list)
    best: Validated | None = None

    def remember(self, target: Target, check: Validation) -> None:
        """Keep the train that was just validated, unless an earlier one is nearer: at the cap of the ranks sweeps wander."""
        assert self.train is not None
        new = Validated(self.train, self.state, self.forward, check)
        if not len(check.indices):  # nothing is left to judge by
            self.best = None
        elif self.best is None or not target.nearer(self.best, new):
            self.best = new

    def restore(self, error: float) -> float:
        """Go back to the best train that was validated, if one was, and return its error instead of ``error``."""
        if self.best is None:
            return error
        self.train, self.state, self.forward, check = self.best
        return check.error

    def step(
        self,
        target: Target,
        samples: Tensor,
        forced: Tensor,
        *,
        tol: float,
        max_rank: int,
        stage: str,
        error: float | None,
    ) -> HalfSweep:
        """One half-sweep, alternating directions; the state and the train are replaced only when it has succeeded."""
        grid: Grid = self.grid
        weights, points = self.root_weights, (samples, forced)
        if not self.forward:
            grid, weights, points = grid.reversed(), weights[::-1], (samples.flip(1), forced.flip(1))
        result = half_sweep(
            grid, self.state, target.transform, weights, samples=points[0], forced=points[1], tol=tol, max_rank=max_rank
        )
        train = TensorTrain(result.train.cores, target.log_scale())
        self.train = train if self.forward else train.reversed()
        self.state, self.forward, self.beta = result.state.reversed(), not self.forward, target.beta
        record = SweepRecord(
            stage, target.beta, len(self.history), self.train.ranks, result.residual, error, self.grid.num_evaluations
        )
        self.history.append(record)
        if self.callback is not None:
            self.callback(record)
        return result

    def affordable_rank(self, share: float) -> int:
        """The rank at which a half-sweep costs ``share`` of what is left of the budget."""
        if self.grid.budget is None:
            return self.options.max_rank
        fibers = share * self.grid.remaining / sum(self.grid.mode_sizes)
        extra = self.options.enrichment
        return max(1, int(-extra / 2 + math.sqrt(extra**2 / 4 + max(0.0, fibers))))

    def pick(self, weights: Tensor, indices: Tensor, count: int) -> Tensor:
        """Distinct rows of ``indices`` drawn in proportion to ``weights``."""
        positive = int((weights > 0).sum())
        if positive == 0:
            return indices[:0]
        chosen = torch.multinomial(weights, min(count, positive), generator=self.generator)
        return indices[chosen]


class DensityTarget:
    r"""The tensor approximated at one inverse temperature: :math:`e^{\frac12(\beta \log \tilde p - s)} \prod_k \sqrt{w_k}`."""

    def __init__(self, run: _Run, beta: float) -> None:
        self._grid, self._weights, self.beta = run.grid, run.root_weights, beta

    @property
    def _shift(self) -> float:
        largest = self._grid.largest
        return self.beta * largest if math.isfinite(largest) else 0.0

    def transform(self, values: Tensor) -> Tensor:
        return torch.exp(0.5 * (self.beta * values - self._shift))

    def log_scale(self) -> float:
        return 0.5 * self._shift

    def coefficients(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mantissa and log of the coefficients at explicit indices."""
        logs = 0.5 * self.beta * self._grid.values(indices) + _log_weights(self._weights, indices)
        return torch.ones_like(logs), logs

    def validate(self, train: TensorTrain, count: int, generator: torch.Generator | None) -> Validation:
        """Draws from the square of the train."""
        return validate(train, self.coefficients, count, generator)

    def nearer(self, old: Validated, new: Validated) -> bool:
        """By the draws of both; the values are known already."""
        first, second = misfits((old.train, new.train), (old.check.indices, new.check.indices), self.coefficients)
        return first < second


def _log_weights(root_weights: Sequence[Tensor], indices: Tensor) -> Tensor:
    return sum(
        (w.log()[indices[:, k]] for k, w in enumerate(root_weights)), torch.zeros((), dtype=root_weights[0].dtype)
    )


def effective_fraction(log_weights: Tensor) -> float:
    """Effective sample size of unnormalised log-weights as a fraction of their number."""
    finite = log_weights - log_weights.max()
    weights = torch.where(torch.isnan(finite), 0.0, finite.exp())
    return float(weights.sum() ** 2 / weights.square().sum().clamp_min(1e-300) / len(weights))


def _next_beta(beta: float, values: Tensor, log_g2: Tensor, goal: float) -> float:
    """The largest inverse temperature at which draws from the current train keep the effective fraction ``goal``."""

    def kept(b: float) -> float:
        return effective_fraction(b * values - log_g2)

    if kept(1.0) >= goal:
        return 1.0
    low, high = math.log(beta), 0.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(math.exp(middle)) >= goal else (low, middle)
    return math.exp(low)


def _explore(run: _Run, reference: Sequence[Tensor], init: Tensor, caller: str) -> tuple[Tensor, Tensor]:
    """Random grid points from the reference, and those given: where the density is seen for the first time."""
    dim = len(run.root_weights)
    if run.grid.remaining < 1:
        raise BudgetExhausted("1 evaluation wanted, 0 left")
    count = int(max(1, min(1000, run.grid.remaining // 4)))
    for _ in range(6):
        draws = torch.stack(
            [torch.multinomial(p, count, replacement=True, generator=run.generator) for p in reference], 1
        )
        indices = torch.cat([init, draws])
        values = run.grid.values(indices[: int(min(len(indices), run.grid.remaining))])
        if bool((values > -torch.inf).any()):
            return indices[: len(values)], values
        count = int(min(4 * count, run.grid.remaining, 200_000 // dim + 1000))
        if count < 1:
            break
    raise EvaluationError(
        f"{caller}: expected a density that is positive somewhere; got zero at all {run.grid.num_evaluations} points tried. "
        "Check signs and supports, or pass init_points= inside the support."
    )


def _climb(run: _Run, indices: Tensor, values: Tensor, init: Tensor) -> None:
    """Raise beta from nearly flat to one, keeping an overlap between consecutive trains and carrying the pivots along."""
    options = run.options
    finite = values > -torch.inf
    seen = values[finite]
    beta = _next_beta(1e-12, seen, torch.zeros_like(seen), 0.5)
    weights = torch.softmax(beta * torch.where(finite, values, -torch.inf), 0)
    forced = torch.cat([init, run.pick(weights, indices, options.enrichment)])
    samples = forced[:0]
    attempts = 0
    while True:
        target = DensityTarget(run, beta)
        rank = min(options.max_rank, options.ladder_rank, run.affordable_rank(0.15))
        run.step(target, samples, forced, tol=options.ladder_tol, max_rank=rank, stage="ladder", error=None)
        if len(run.history) == 1:
            run.step(target, samples, forced, tol=options.ladder_tol, max_rank=rank, stage="ladder", error=None)
        if beta >= 1.0:
            return
        count = int(min(options.ladder_draws, run.grid.remaining // 10))
        if count < 2:
            raise BudgetExhausted(f"draws to raise the temperature wanted, {run.grid.remaining:.0f} evaluations left")
        check, values, log_g2 = _draw(run, target, count)
        quality = effective_fraction(beta * values - log_g2)
        attempts += 1
        if quality > 0.25 or attempts >= 3:
            goal = options.ladder_ess * min(1.0, quality)
            beta = min(1.0, max(_next_beta(beta, values, log_g2, goal), options.ladder_growth * beta))
            attempts = 0
        weights = torch.softmax(beta * values - log_g2, 0)
        samples, forced = (
            run.pick(weights, check.indices, options.enrichment),
            _unmet(run, DensityTarget(run, beta), init),
        )


def _start_warm(run: _Run, warm: CrossState, init: Tensor) -> None:
    """Two loose half-sweeps at the target on inherited pivots."""
    run.state = warm
    options = run.options
    rank = min(options.max_rank, max(options.ladder_rank, *(len(s) for s in warm.right)), run.affordable_rank(0.5))
    for _ in range(2):
        target = DensityTarget(run, 1.0)
        run.step(target, init[:0], init, tol=options.tol, max_rank=rank, stage="refine", error=None)


def _unmet(run: _Run, target: Target, known: Tensor) -> Tensor:
    """Points known to matter; of a train at the cap of its ranks those that it is wrong at, highest density first, and few.

    Every forced point is a fiber at every cut: where there are as many ranks as it takes they keep thin ends in sight, but forty
    of them beside twelve pivots make a half-sweep four times as long, and crowd out what the density itself asks for.
    """
    if not len(known) or run.train is None or max(run.train.ranks) < run.options.max_rank:
        return known
    mantissa, log = evaluate_indices(run.train, known)
    wanted, wanted_log = target.coefficients(known)
    ratio = mantissa / wanted * (log - wanted_log).exp()
    wrong = ~((ratio - 1).abs() < WRONG)
    highest = torch.where(wrong, wanted_log, -torch.inf).argsort(descending=True)[: int(wrong.sum())]
    return known[highest[: max(run.options.enrichment, max(run.train.ranks) // 4)]]


def _draw(run: _Run, target: DensityTarget, count: int) -> tuple[Validation, Tensor, Tensor]:
    """Draws from the current train, the log-density there, and the log of the train's own density there."""
    assert run.train is not None
    check = validate(run.train, target.coefficients, count, run.generator)
    return check, run.grid.values(check.indices), check.log_square - 2 * _log_weights(run.root_weights, check.indices)


def _refine(run: _Run, target: Target, init: Tensor, relevance: float) -> tuple[Status, str, float]:
    """Sweep at the final target until independent draws agree and searches for missed modes come back empty."""
    options = run.options
    best, since_best, quiet, widest = math.inf, 0, 0, 0
    error, found = math.inf, init[:0]
    rank_bound, truncation = False, options.tol / 3
    affordable = options.max_rank
    for _ in range(options.max_half_sweeps):
        assert run.train is not None
        check = target.validate(run.train, int(min(options.validation, run.grid.remaining)), run.generator)
        error = check.error
        run.remember(target, check)
        if error <= options.tol:
            found = search(run.grid, run.train, target.coefficients, options, relevance, run.generator)
            quiet = 0 if len(found) else quiet + 1
            run.best = None if len(found) else run.best  # what was kept lacks them
            if quiet >= options.guard_rounds:
                return "converged", f"relative error {error:.1e} within tol={options.tol:.1e}", error
            if not len(found):
                continue
        rank = max(run.train.ranks)
        since_best = 0 if error < 0.8 * best or rank > widest else since_best + 1
        best, widest = min(best, error), max(rank, widest)
        if since_best >= 2 and not rank_bound:
            truncation = max(
                truncation / 3, 0.05 * options.tol
            )  # interpolation amplifies what truncation leaves out, most in long and narrow trains
        if since_best >= 4:
            error = run.restore(error)
            if rank_bound and affordable < options.max_rank:
                message = f"relative error {error:.1e} at rank {affordable}, all that is affordable; raise budget"
                return "budget exhausted", message, error
            if rank_bound:
                return (
                    "rank-limited",
                    f"relative error {error:.1e} at max_rank={options.max_rank}; raise max_rank",
                    error,
                )
            return "stalled", f"relative error {error:.1e} no longer falls; raise the basis sizes, or tol", error
        tests = max(options.enrichment, rank // 4)  # grow by a factor, not by a number, where ranks are high
        half = (tests + 1) // 2
        worst = check.indices[check.errors.argsort(descending=True)[:half]]
        others = check.indices[: tests - half]
        affordable = max(run.affordable_rank(1.0), rank)  # never less than there is: many of its fibers are known
        forced = torch.cat([_unmet(run, target, init), found])
        result = run.step(
            target,
            torch.cat([worst, others]),
            forced,
            tol=truncation,
            max_rank=min(options.max_rank, affordable),
            stage="refine",
            error=error,
        )
        rank_bound = result.discarded > 0.5 * options.tol
        found = found[:0]
    error = run.restore(error)
    return (
        "stalled",
        f"relative error {error:.1e} after {options.max_half_sweeps} half-sweeps; raise the basis sizes, or tol",
        error,
    )


class CrossResult(NamedTuple):
    """A right-orthogonal train of coefficients, the report, and the pivots (for a warm start elsewhere)."""

    train: TensorTrain
    info: CrossInfo
    state: CrossState


def cross_density(
    grid: GridFunction,
    root_weights: list[Tensor],
    reference: Sequence[Tensor],
    *,
    options: CrossOptions,
    generator: torch.Generator | None = None,
    callback: Callable[[SweepRecord], None] | None = None,
    init: Tensor | None = None,
    warm: CrossState | None = None,
    caller: str = "cross_density",
) -> CrossResult:
    r"""Approximate :math:`\sqrt{\tilde p}` on a grid: explore, climb a temperature ladder, refine, search for missed modes.

    Args:
        grid: the log-density at the nodes.
        root_weights: square roots of the weights, one ``(n_k,)`` tensor per mode.
        reference: probabilities of the nodes under the reference, where exploration starts.
        options: tolerances and caps.
        generator: source of randomness.
        callback: called with a :class:`SweepRecord` after every half-sweep.
        init: multi-indices of points known to matter, shape ``(m, d)``.
        warm: pivots of an earlier fit of the same density; the ladder is then left out.
        caller: public name used in error messages.

    Returns:
        The right-orthogonal train of coefficients, and a report. A budget that ends early is a status, not an error.

    Raises:
        EvaluationError: the function raised, or is zero everywhere; ``.info`` holds what was paid for.
    """
    started = time.perf_counter()
    dim = len(root_weights)
    state = CrossState.empty(dim, grid.dtype, grid.device)
    run = _Run(grid, root_weights, options, generator, callback, state)
    init = torch.zeros(0, dim, dtype=torch.int64, device=grid.device) if init is None else init
    status: Status = "interrupted"
    message, error = "the function raised", math.nan
    try:
        try:
            if warm is None:
                indices, values = _explore(run, reference, init, caller)
                _climb(run, indices, values, init)
            else:
                _start_warm(run, warm, init)
            status, message, error = _refine(run, DensityTarget(run, 1.0), init, relevance=1e-4)
        except BudgetExhausted as stop:
            error = run.restore(next((r.error for r in reversed(run.history) if r.error is not None), math.nan))
            status, message = "budget exhausted", f"{stop}; raise budget, or lower max_rank or the basis sizes"
    except EvaluationError as failure:
        failure.info = _report(run, status, message, error, started, run.train)
        raise
    train = run.train
    if train is None:  # not one sweep was paid for: the flat train of the mean density seen
        _, seen = grid.points()
        level = torch.logsumexp(seen, 0) - math.log(max(1, len(seen))) if len(seen) else seen.new_zeros(())
        train = TensorTrain([w[None, :, None] for w in root_weights], 0.5 * level)
    elif status == "converged":
        train = truncate(train, tol=0.3 * options.tol)
    train = orthogonalize(train)
    natural = run.state if run.forward else run.state.reversed()
    return CrossResult(train, _report(run, status, message, error, started, train), natural)


def _report(
    run: _Run, status: Status, message: str, error: float, started: float, train: TensorTrain | None
) -> CrossInfo:
    return CrossInfo(
        status=status,
        message=message,
        error=error,
        num_evaluations=run.grid.num_evaluations,
        num_invalid=run.grid.num_invalid,
        ranks=() if train is None else train.ranks,
        mode_sizes=run.grid.mode_sizes,
        seconds=time.perf_counter() - started,
        history=tuple(run.history),
        beta=run.beta,
        _sources=(run.grid,),
    )
