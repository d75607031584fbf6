"""Cross approximation of real-valued functions of any sign: the driver without temperatures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from .algebra import evaluate_indices, norm, sample_indices
from .cache import GridFunction
from .canonical import orthogonalize, truncate
from .cross import CrossOptions, CrossResult, Validated, _log_weights, _refine, _report, _Run
from .report import Status, SweepRecord
from .sweep import CrossState, Validation
from .train import TensorTrain

__all__ = ["cross_function", "mixture_errors"]

LOOSE_TOL = 0.1  # of the first two half-sweeps, which only have to find their way
EXPLORE = 1000


def mixture_errors(log_gap: Tensor, log_square: Tensor, log_uniform: Tensor) -> Tensor:
    r"""Squared errors of draws from :math:`q = \tfrac12 g^2 + \tfrac12 u` whose mean is :math:`\lVert f - g \rVert^2`.

    .. math:: e_i = \frac{(f_i - g_i)^2}{\tfrac12 g_i^2 + \tfrac12 u_i}, \qquad \lVert g \rVert = 1

    Draws from :math:`g^2` alone never see what :math:`f` does where :math:`g` vanishes, uniform ones seldom see a peak.
    The balance heuristic weighs both kinds without bias, and bounds the weights.

    Args:
        log_gap: :math:`\log|f - g|`, shape ``(count,)``.
        log_square: :math:`\log g^2`, normalised, shape ``(count,)``.
        log_uniform: :math:`\log u`, shape ``(count,)``.

    References:
        Veach, Guibas: Optimally combining sampling techniques for Monte Carlo rendering (1995).
    """
    log_density = torch.logaddexp(log_square, log_uniform) - math.log(2.0)
    return (2 * log_gap - log_density).exp()


class FunctionTarget:
    r"""The tensor approximated: :math:`(f / s) \prod_k \sqrt{w_k}` with :math:`s` the largest magnitude seen at first."""

    beta = 1.0

    def __init__(self, run: _Run, scale: float) -> None:
        self._grid, self._weights, self._scale = run.grid, run.root_weights, scale

    def transform(self, values: Tensor) -> Tensor:
        return values / self._scale

    def log_scale(self) -> float:
        return math.log(self._scale)

    def coefficients(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Mantissa and log; an exact zero becomes the smallest number, so that its logarithm stays a number."""
        mantissa = self.transform(self._grid.values(indices))
        mantissa = torch.where(mantissa == 0, torch.finfo(mantissa.dtype).tiny, mantissa)
        return mantissa, _log_weights(self._weights, indices) + self.log_scale()

    def validate(self, train: TensorTrain, count: int, generator: torch.Generator | None) -> Validation:
        """Half of the points from the square of the train, half uniform: see :func:`mixture_errors`."""
        log_norm = norm(train, log=True)
        drawn = _uniform(self._weights, count // 2, generator)
        if bool(torch.isfinite(log_norm)):
            squares, _ = sample_indices(orthogonalize(train), count - count // 2, generator=generator)
            drawn = torch.cat([squares, drawn])
        mantissa, log = evaluate_indices(train, drawn)
        wanted, wanted_log = self.coefficients(drawn)
        log_norm = log_norm if bool(torch.isfinite(log_norm)) else wanted_log.max()
        gap = wanted * (wanted_log - log_norm).exp() - mantissa * (log - log_norm).exp()
        log_square = 2 * (mantissa.abs().log() + log - log_norm)
        log_uniform = sum(
            (2 * (w / w.norm()).log()[drawn[:, k]] for k, w in enumerate(self._weights)), log.new_zeros(())
        )
        errors = mixture_errors(gap.abs().log(), log_square, log_uniform)
        return Validation(drawn, log_square + 2 * log_norm, errors, float(errors.mean().sqrt()))

    def nearer(self, old: Validated, new: Validated) -> bool:
        """By their own points, half of which are anywhere."""
        return old.check.error < new.check.error


def _uniform(root_weights: Sequence[Tensor], count: int, generator: torch.Generator | None) -> Tensor:
    """Multi-indices drawn in proportion to the weights of the nodes: uniform on bounded supports."""
    columns = [
        torch.multinomial(w.square(), max(1, count), replacement=True, generator=generator) for w in root_weights
    ]
    return torch.stack(columns, 1)[:count]


def _explore(run: _Run, init: Tensor) -> tuple[Tensor, float]:
    """Points to start from, the largest squared coefficients and random ones, and the largest magnitude seen."""
    best, magnitudes = init, None
    count = int(max(1, min(EXPLORE, run.grid.remaining // 4)))
    for _ in range(2):
        indices = torch.cat([init, _uniform(run.root_weights, count, run.generator)])
        indices = indices[: int(max(1, min(len(indices), run.grid.remaining)))]
        magnitudes = run.grid.values(indices).abs()
        if bool((magnitudes > 0).any()):
            break
        count = int(min(4 * count, run.grid.remaining))
        if count < 1:
            break
    assert magnitudes is not None
    scale = float(magnitudes.max())
    if scale == 0:
        return best, 0.0
    squares = 2 * ((magnitudes / scale).log() + _log_weights(run.root_weights, indices))
    weights = torch.softmax(squares, 0)
    few = run.options.enrichment
    best = torch.cat([init, indices[squares.topk(min(few, len(squares))).indices], run.pick(weights, indices, few)])
    return best, scale


def _sweep_and_refine(run: _Run, init: Tensor) -> tuple[Status, str, float]:
    """Explore, two loose half-sweeps, then refine until independent points agree."""
    forced, scale = _explore(run, init)
    if scale == 0:
        run.train = TensorTrain([torch.zeros_like(w)[None, :, None] for w in run.root_weights])
        return "converged", f"the function is zero at all {run.grid.num_evaluations} points tried", 0.0
    target = FunctionTarget(run, scale)
    options = run.options
    for _ in range(2):
        rank = min(options.max_rank, run.affordable_rank(0.15))
        run.step(
            target, forced[:0], forced, tol=max(LOOSE_TOL, options.tol), max_rank=rank, stage="explore", error=None
        )
    return _refine(run, target, init, relevance=0.0)


def _constant(run: _Run) -> TensorTrain:
    """The mean of what was seen: the answer when not one sweep was paid for."""
    _, seen = run.grid.points()
    level = float(seen.mean()) if len(seen) else 0.0
    first, *others = run.root_weights
    return TensorTrain([w[None, :, None] for w in (first * level, *others)])


def cross_function(
    grid: GridFunction,
    root_weights: list[Tensor],
    *,
    options: CrossOptions,
    generator: torch.Generator | None = None,
    callback: Callable[[SweepRecord], None] | None = None,
    init: Tensor | None = None,
    caller: str = "cross_function",
) -> CrossResult:
    r"""Approximate a real-valued function on a grid: explore, sweep, refine, search for what was missed.

    The error is :math:`\lVert f - g \rVert / \lVert g \rVert` in :math:`L^2`, estimated without bias from points of
    which one half follows :math:`g^2` and the other the weights of the nodes.

    Args:
        grid: the function at the nodes.
        root_weights: square roots of the weights, one ``(n_k,)`` tensor per mode.
        options: tolerances and caps.
        generator: source of randomness.
        callback: called with a :class:`SweepRecord` after every half-sweep.
        init: multi-indices of points known to matter, shape ``(m, d)``.
        caller: public name used in error messages.

    Returns:
        The right-orthogonal train of coefficients, a report, the pivots. A budget that ends early is a status, not an
        error; a function that is zero wherever it was tried is the zero train of rank 1.

    Raises:
        EvaluationError: the function raised, or returned NaN or an infinity; ``.info`` holds what was paid for.
    """
    started = time.perf_counter()
    dim = len(root_weights)
    run = _Run(grid, root_weights, options, generator, callback, CrossState.empty(dim, grid.dtype, grid.device))
    init = torch.zeros(0, dim, dtype=torch.int64, device=grid.device) if init is None else init
    status: Status = "interrupted"
    message, error = f"{caller}: the function raised", math.nan
    try:
        try:
            status, message, error = _sweep_and_refine(run, init)
        except BudgetExhausted as stop:
            error = run.restore(next((r.error for r in reversed(run.history) if r.error is not None), math.nan))
            status, message = "budget exhausted", f"{stop}; raise budget, or lower max_rank or the basis sizes"
    except EvaluationError as failure:
        failure.info = _report(run, status, message, error, started, run.train)
        raise
    train = _constant(run) if run.train is None else run.train
    if status == "converged" and error > 0:
        train = truncate(train, tol=0.3 * options.tol)
    train = orthogonalize(train)
    run.beta = 1.0
    natural = run.state if run.forward else run.state.reversed()
    return CrossResult(train, _report(run, status, message, error, started, train), natural)
