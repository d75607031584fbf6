"""From a log-density and bases to a train and an honest report: basis sizes, cross approximation, weights between the nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..typing import LogDensity
from .algebra import sample_indices
from .basis import Basis
from .cache import GridFunction
from .canonical import orthogonalize
from .cross import CrossResult, cross_density, effective_fraction
from .report import CrossInfo, SweepRecord
from .request import CHECK_DRAWS, Fit, Request, accounted, judged, nearest_indices
from .slices import SLICE_SIZES, SLICE_TOL, WALKERS, pilot_bases, sized_bases
from .squared import SquaredTrain
from .sweep import CrossState
from .train import TensorTrain

__all__ = ["fit_density"]

PILOT_TOL = 0.2
MOST_NAMED = 16  # given points that become walkers
SHARE_OF_SLICES = 0.05  # of the budget
RESIZED = 2  # times that sizes are chosen again
WORST = 16  # draws through which slices are laid then
GROWTH = 1.2  # of a size, less of which is not worth another train


def fit_density(log_density: LogDensity, bases: Sequence[Basis], **arguments: object) -> Fit:
    """The work behind :meth:`ttvi.tt.TTDensity.fit`, which says what the arguments are: train, bases with sizes, report."""
    request = Request.check("fit", log_density, bases, **arguments)  # type: ignore[arg-type]
    return accounted(lambda sources: _fit(request, log_density, sources))


def _fit(request: Request, log_density: LogDensity, sources: list[GridFunction]) -> Fit:
    """Sizes, cross approximation, validation. Every grid is entered in ``sources`` before it is paid for."""
    if all(basis.size is not None for basis in request.bases):
        return _on_grid(request, log_density, sources, request.bases, None, ()).fit
    sized, warm, history = _choose_sizes(request, log_density, sources)
    best = _on_grid(request, log_density, sources, sized, warm, history)
    for _ in range(RESIZED):
        larger = _larger_sizes(request, best) if best.fit[2].status == "basis-limited" else None
        if larger is None:
            break
        warm = _moved(best.result.state, best.grid, request, larger)
        again = _on_grid(request, log_density, sources, larger, warm, best.fit[2].history)
        if not again.fit[2].error < best.fit[2].error:
            break
        best = again
    return best.fit


class _Attempt(NamedTuple):
    """One cross approximation on one grid: what it gave, where, and the draws that were looked at between the nodes."""

    fit: Fit
    grid: GridFunction
    result: CrossResult
    draws: Tensor
    log_weights: Tensor


def _on_grid(
    request: Request,
    log_density: LogDensity,
    sources: list[GridFunction],
    sized: tuple[Basis, ...],
    warm: CrossState | None,
    history: tuple[SweepRecord, ...],
) -> _Attempt:
    """Cross approximation in bases of given sizes with what is left of the budget, and its error between the nodes."""
    spent = sum(source.num_evaluations for source in sources)
    left = None if request.budget is None else request.budget - spent
    checks = CHECK_DRAWS if left is None else min(CHECK_DRAWS, left // 10)
    grid = request.grid(log_density, sized, "log_density", None if left is None else left - checks, -torch.inf)
    sources.append(grid)
    result = cross_density(
        grid,
        request.root_weights(sized),
        _reference(sized, grid.nodes),
        options=request.options,
        generator=request.generator,
        callback=request.callback,
        init=nearest_indices(grid.nodes, request.init_points),
        warm=warm,
        caller="fit",
    )
    grid.budget = left
    train, info, draws, log_weights = _check_between_nodes(request, sized, grid, result, checks)
    return _Attempt((train, sized, info.replace(history=(*history, *info.history))), grid, result, draws, log_weights)


def _larger_sizes(request: Request, attempt: _Attempt) -> tuple[Basis, ...] | None:
    """Sizes from slices through the draws of the largest errors; None where they ask for no more, or nothing is left.

    A few walkers do not see the sharpest slice of a density that bends; the weights of draws between the nodes do.
    """
    _, sized, _ = attempt.fit
    error = (0.5 * attempt.log_weights).exp().sub(1).abs()
    worst = attempt.draws[torch.where(torch.isfinite(error), error, 0.0).topk(min(WORST, len(error))).indices]
    tolerance = SLICE_TOL * request.options.tol / math.sqrt(len(sized))
    wanted = sized_bases(request.bases, attempt.grid, worst.clone(), tolerance, request.generator, root_density)
    pairs = list(zip(sized, wanted, strict=True))
    if all((new.size or 0) <= GROWTH * (old.size or 0) for old, new in pairs):
        return None
    return tuple(new if (new.size or 0) > (old.size or 0) else old for old, new in pairs)


def _reference(bases: Sequence[Basis], nodes: Sequence[Tensor]) -> list[Tensor]:
    """Probabilities of the nodes under the reference density."""
    return [
        basis.reference_log_prob(x).exp() * basis.weights(dtype=x.dtype, device=x.device)
        for basis, x in zip(bases, nodes, strict=True)
    ]


def _check_between_nodes(
    request: Request, bases: tuple[Basis, ...], grid: GridFunction, result: CrossResult, count: int
) -> tuple[TensorTrain, CrossInfo, Tensor, Tensor]:
    """Importance weights of exact draws: the error off the grid, and the evidence if the ladder was not climbed."""
    train, info = result.train, result.info
    square = SquaredTrain(train, bases, True)
    nothing = grid.nodes[0].new_zeros(0, len(bases))
    if count < 1:
        return train, info, nothing, nothing.sum(1)
    x = square.sample(count, request.generator)
    log_square = square.log_square(x)[:, 0]
    try:
        values = grid.off_grid(x[:, 0])
    except BudgetExhausted:
        return train, info, nothing, nothing.sum(1)
    log_weights = values - log_square
    error = float((0.5 * log_weights).exp().sub(1).square().mean().sqrt())
    info = info.replace(ess=effective_fraction(log_weights))
    if info.beta < 1:
        correction = torch.logsumexp(log_weights, 0) - math.log(count)
        if bool(torch.isfinite(correction)):
            train = TensorTrain(train.cores, train.log_scale + 0.5 * correction)
        return train, info.replace(error=error), x[:, 0], log_weights
    return train, judged(info, error, request.options.tol), x[:, 0], log_weights


def _choose_sizes(
    request: Request, log_density: LogDensity, sources: list[GridFunction]
) -> tuple[tuple[Basis, ...], CrossState | None, tuple[SweepRecord, ...]]:
    r"""Basis sizes from the decay of the coefficients of slices through the density.

    A pilot train on few nodes finds the modes; a few Gibbs walkers, started from its draws and from
    ``init_points``, move along fine slices, and
    the coefficients of :math:`\sqrt{\tilde p}` along each slice tell how many functions the coordinate needs.
    """
    pilot = pilot_bases(request.bases)
    budget = None if request.budget is None else max(1, request.budget // 3)
    grid = request.grid(log_density, pilot, "log_density", budget, -torch.inf)
    sources.append(grid)
    options = replace(request.options, tol=PILOT_TOL, guard_rounds=1, max_half_sweeps=4, validation=256)
    result = cross_density(
        grid,
        request.root_weights(pilot),
        _reference(pilot, grid.nodes),
        options=options,
        generator=request.generator,
        callback=request.callback,
        init=nearest_indices(grid.nodes, request.init_points),
        caller="fit",
    )
    drawn, _ = sample_indices(orthogonalize(result.train), WALKERS, generator=request.generator)
    # The pilot may be blind to a narrow mode that was named, or to the narrow end of a bent one.
    walkers = torch.cat([request.init_points[: _named_walkers(request)], grid.coordinates(drawn)])
    tolerance = SLICE_TOL * request.options.tol / math.sqrt(len(request.bases))
    sized = sized_bases(request.bases, grid, walkers, tolerance, request.generator, root_density)
    grid.budget = None
    return sized, _moved(result.state, grid, request, sized), result.info.history


def _moved(state: CrossState, grid: GridFunction, request: Request, sized: Sequence[Basis]) -> CrossState | None:
    """Pivots to start from in bases of other sizes; None where the budget ended before one sweep each way."""
    nodes = [basis.nodes(dtype=request.dtype, device=request.device) for basis in sized]
    pivots = _transfer_pivots(state, grid.nodes, nodes)
    return pivots if all(len(s) for s in pivots.right[1:]) else None


def _named_walkers(request: Request) -> int:
    """How many of the points that were given slices are laid through: as many as a small share of the budget pays for."""
    if request.budget is None:
        return MOST_NAMED
    price = 2 * SLICE_SIZES[1] * len(request.bases)  # two passes
    return int(min(MOST_NAMED, max(WALKERS, SHARE_OF_SLICES * request.budget / price)))


def root_density(values: Tensor) -> Tensor:
    """Square roots of densities, each row divided by its own largest entry; rows without density are zero."""
    top = values.max(1, keepdim=True).values
    return torch.where(torch.isfinite(top), torch.exp(0.5 * (values - top)), 0.0)


def _transfer_pivots(state: CrossState, old: Sequence[Tensor], new: Sequence[Tensor]) -> CrossState:
    """The same pivots on another grid: every index becomes that of the nearest new node; duplicates are dropped."""
    maps = [(y[:, None] - x[None]).abs().argmin(1) for y, x in zip(old, new, strict=True)]
    dim = len(maps)

    def moved(sets: Tensor, start: int) -> Tensor:
        columns = [maps[start + j][sets[:, j]] for j in range(sets.shape[1])]
        return torch.unique(torch.stack(columns, 1), dim=0) if columns else sets

    right = tuple(moved(s, k) for k, s in enumerate(state.right))
    left = tuple(moved(s, 0) for s in state.left)
    frames = tuple(torch.eye(len(s), dtype=old[0].dtype, device=old[0].device) for s in right)
    assert len(right) == dim + 1
    return CrossState(left, right, frames)
