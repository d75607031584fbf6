"""From a function and bases to a train and an honest report: basis sizes, cross approximation, error between the nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..typing import BatchFunction
from .algebra import evaluate
from .basis import Basis
from .cache import GridFunction
from .cross_function import cross_function, mixture_errors
from .report import CrossInfo
from .request import CHECK_DRAWS, Fit, Request, accounted, judged, nearest_indices
from .slices import SLICE_TOL, WALKERS, pilot_bases, sized_bases
from .squared import SquaredTrain
from .train import TensorTrain

__all__ = ["fit_function", "reference_points"]


def fit_function(function: BatchFunction, bases: Sequence[Basis], **arguments: object) -> Fit:
    """The work behind :meth:`ttvi.tt.TTFunction.fit`, which says what the arguments are: train, bases with sizes, report."""
    request = Request.check("fit", function, bases, **arguments)  # type: ignore[arg-type]
    return accounted(lambda sources: _fit(request, function, sources))


def _fit(request: Request, function: BatchFunction, sources: list[GridFunction]) -> Fit:
    """Sizes, cross approximation, validation. Every grid is entered in ``sources`` before it is paid for."""
    sized = request.bases
    if any(basis.size is None for basis in sized):
        sized = _choose_sizes(request, function, sources)
    left = None if request.budget is None else request.budget - sum(source.num_evaluations for source in sources)
    checks = CHECK_DRAWS if left is None else min(CHECK_DRAWS, left // 10)
    grid = request.grid(function, sized, "function", None if left is None else left - checks, None)
    sources.append(grid)
    result = cross_function(
        grid,
        request.root_weights(sized),
        options=request.options,
        generator=request.generator,
        callback=request.callback,
        init=nearest_indices(grid.nodes, request.init_points),
        caller="fit",
    )
    grid.budget = left
    return result.train, sized, _check_between_nodes(request, sized, grid, result.train, result.info, checks)


def reference_points(
    bases: Sequence[Basis], count: int, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draws from the product of the references, shape ``(count, d)``: uniform where the support is bounded."""
    u = torch.rand(count, len(bases), dtype=dtype, device=device, generator=generator)
    return torch.stack([basis.reference_icdf(u[:, k]) for k, basis in enumerate(bases)], 1)


def _check_between_nodes(
    request: Request, bases: tuple[Basis, ...], grid: GridFunction, train: TensorTrain, info: CrossInfo, count: int
) -> CrossInfo:
    r"""The relative :math:`L^2` error off the grid, half of the points from the reference and half from :math:`g^2`."""
    if count < 2:
        return info
    x = reference_points(bases, count - count // 2, request.generator, train.dtype, train.device)
    square = SquaredTrain(train, bases, True)
    log_norm = square.log_norm()
    zero = not bool(torch.isfinite(log_norm))
    if not zero:
        x = torch.cat([square.sample(count // 2, request.generator)[:, 0], x])
    try:
        values = grid.off_grid(x)
    except BudgetExhausted:
        return info
    if zero:
        error = 0.0 if not bool(values.any()) else math.inf
    else:
        root = (-0.5 * log_norm).exp()
        mantissa, log = evaluate(train, [basis(x[:, k]) for k, basis in enumerate(bases)])
        approximation = mantissa * (log - 0.5 * log_norm).exp()
        log_reference = sum((b.reference_log_prob(x[:, k]) for k, b in enumerate(bases)), x.new_zeros(()))
        gap = (values * root - approximation).abs().log()
        error = float(mixture_errors(gap, 2 * approximation.abs().log(), log_reference).mean().sqrt())
    return judged(info, error, request.options.tol)


def _choose_sizes(request: Request, function: BatchFunction, sources: list[GridFunction]) -> tuple[Basis, ...]:
    """Basis sizes from the decay of the coefficients along slices through random points, which then move by their square."""
    pilot = pilot_bases(request.bases)
    budget = None if request.budget is None else max(1, request.budget // 3)
    grid = request.grid(function, pilot, "function", budget, None)
    sources.append(grid)
    tolerance = SLICE_TOL * request.options.tol / math.sqrt(len(pilot))

    def relevant(values: Tensor) -> Tensor:
        """Slices that matter beside the largest; the others are rounding errors, or too small to be seen."""
        peaks = values.abs().amax(1, keepdim=True)
        return torch.where(peaks > tolerance * peaks.max(), values / peaks, 0.0)

    walkers = reference_points(pilot, WALKERS, request.generator, request.dtype, request.device)
    walkers = torch.cat([request.init_points[:WALKERS], walkers])
    return sized_bases(request.bases, grid, walkers, tolerance, request.generator, relevant)
