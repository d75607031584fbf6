"""From a log-density and bases to a train and an honest report: arguments, basis sizes, validation between the nodes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import BudgetExhausted, ConvergenceWarning, EvaluationError
from ..typing import BatchFunction, LogDensity
from .algebra import sample_indices
from .basis import Basis
from .cache import GridFunction
from .canonical import orthogonalize
from .cross import CrossOptions, CrossResult, cross_density, effective_fraction
from .report import CrossInfo, SweepRecord
from .squared import SquaredTrain
from .sweep import CrossState
from .train import TensorTrain

__all__ = ["Request", "fit_density"]

PILOT_SIZE = 17
PILOT_TOL = 0.2
WALKERS = 4
SLICE_SIZES = (65, 129, 257, 513)
CHECK_DRAWS = 1000
SLACK = 3.0  # an independent error this far above tol is noise of the estimate, more is a failure


@dataclass(frozen=True)
class Request:
    """The checked arguments that every fit shares."""

    bases: tuple[Basis, ...]
    options: CrossOptions
    budget: int | None
    generator: torch.Generator | None
    dtype: torch.dtype
    device: torch.device
    init_points: Tensor
    max_batch: int | None
    callback: Callable[[SweepRecord], None] | None

    @classmethod
    def check(
        cls,
        caller: str,
        function: object,
        bases: Sequence[Basis],
        *,
        tol: float,
        max_rank: int,
        budget: int | None,
        generator: torch.Generator | None,
        seed: int | None,
        dtype: torch.dtype,
        device: torch.device | str | None,
        init_points: Tensor | None,
        max_batch: int | None,
        callback: Callable[[SweepRecord], None] | None,
        options: CrossOptions | None,
    ) -> Request:
        """Raise early, with the remedy."""
        if not callable(function):
            raise TypeError(
                f"{caller}: expected a callable as first argument; got {type(function).__name__}. Pass a function of a batch."
            )
        bases = tuple(bases)
        if not bases or not all(isinstance(basis, Basis) for basis in bases):
            raise TypeError(
                f"{caller}: expected a sequence of ttvi.tt bases, one per coordinate; got {bases!r}. E.g. [Legendre(-3, 3)] * 8."
            )
        if not (math.isfinite(tol) and 0 < tol < 1):
            raise ValueError(f"{caller}: expected 0 < tol < 1; got {tol}. The default is {CrossOptions.tol}.")
        for name, value in (("max_rank", max_rank), ("budget", budget), ("max_batch", max_batch)):
            if value is not None and (int(value) != value or value < 1):
                raise ValueError(
                    f"{caller}: expected {name} to be a positive integer; got {value}. Leave it out for the default."
                )
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(
                f"{caller}: expected a floating-point dtype; got {dtype}. Use torch.float64 or torch.float32."
            )
        where = torch.device("cpu" if device is None else device)
        if generator is not None and seed is not None:
            raise ValueError(f"{caller}: expected generator= or seed=, not both. Drop one.")
        if seed is not None:
            generator = torch.Generator(where).manual_seed(seed)
        points = torch.zeros(0, len(bases)) if init_points is None else torch.as_tensor(init_points)
        if points.dim() != 2 or points.shape[1] != len(bases) or not bool(torch.isfinite(points).all()):
            raise ValueError(
                f"{caller}: expected init_points of shape (m, {len(bases)}) with finite entries; got {tuple(points.shape)}. One row per point."
            )
        knobs = replace(options or CrossOptions(), tol=max(tol, 30 * torch.finfo(dtype).eps), max_rank=max_rank)
        return cls(bases, knobs, budget, generator, dtype, where, points.to(where, dtype), max_batch, callback)

    def grid(
        self, function: BatchFunction, bases: Sequence[Basis], argument: str, budget: int | None, invalid: float | None
    ) -> GridFunction:
        """The function on the product of the nodes of ``bases``."""
        nodes = [basis.nodes(dtype=self.dtype, device=self.device) for basis in bases]
        return GridFunction(
            function, nodes, caller="fit", argument=argument, budget=budget, max_batch=self.max_batch, invalid=invalid
        )

    def root_weights(self, bases: Sequence[Basis]) -> list[Tensor]:
        """Square roots of the quadrature weights."""
        return [basis.weights(dtype=self.dtype, device=self.device).sqrt() for basis in bases]


def nearest_indices(nodes: Sequence[Tensor], points: Tensor) -> Tensor:
    """The node closest to each coordinate of ``points``: shape ``(m, d)`` to indices of the same shape."""
    columns = [(points[:, k : k + 1] - x).abs().argmin(1) for k, x in enumerate(nodes)]
    return (
        torch.stack(columns, 1) if len(points) else torch.zeros(points.shape, dtype=torch.int64, device=points.device)
    )


def fit_density(
    log_density: LogDensity, bases: Sequence[Basis], **arguments: object
) -> tuple[TensorTrain, tuple[Basis, ...], CrossInfo]:
    """The work behind :meth:`ttvi.tt.TTDensity.fit`: train, bases with sizes, report. Warns once when it fell short."""
    request = Request.check("fit", log_density, bases, **arguments)  # type: ignore[arg-type]
    sources: list[GridFunction] = []
    try:
        train, sized, info = _fit(request, log_density, sources)
    except EvaluationError as failure:
        failure.info = _complete(failure.info or _nothing(sources[-1].mode_sizes), sources)
        raise
    info = _complete(info, sources)
    if not info.converged:
        warnings.warn(f"fit: {info.status}: {info.message}.", ConvergenceWarning, stacklevel=3)
    return train, sized, info


def _fit(
    request: Request, log_density: LogDensity, sources: list[GridFunction]
) -> tuple[TensorTrain, tuple[Basis, ...], CrossInfo]:
    """Sizes, cross approximation, validation. Every grid is entered in ``sources`` before it is paid for."""
    sized, warm, history = request.bases, None, ()
    if any(basis.size is None for basis in sized):
        sized, warm, history = _choose_sizes(request, log_density, sources)
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
    train, info = _check_between_nodes(request, sized, grid, result, checks)
    return train, sized, info.replace(history=(*history, *info.history))


def _complete(info: CrossInfo, sources: Sequence[GridFunction]) -> CrossInfo:
    """The report with everything that was paid for on any grid."""
    return info.replace(
        num_evaluations=sum(source.num_evaluations for source in sources),
        num_invalid=sum(source.num_invalid for source in sources),
        _sources=tuple(sources),
    )


def _nothing(mode_sizes: tuple[int, ...]) -> CrossInfo:
    """The report of a fit that was interrupted outside of a sweep."""
    return CrossInfo("interrupted", "the function raised", math.nan, 0, 0, (), mode_sizes, 0.0, ())


def _reference(bases: Sequence[Basis], nodes: Sequence[Tensor]) -> list[Tensor]:
    """Probabilities of the nodes under the reference density."""
    return [
        basis.reference_log_prob(x).exp() * basis.weights(dtype=x.dtype, device=x.device)
        for basis, x in zip(bases, nodes, strict=True)
    ]


def _check_between_nodes(
    request: Request, bases: tuple[Basis, ...], grid: GridFunction, result: CrossResult, count: int
) -> tuple[TensorTrain, CrossInfo]:
    """Importance weights of exact draws: the error off the grid, and the evidence if the ladder was not climbed."""
    train, info = result.train, result.info
    square = SquaredTrain(train, bases, True)
    if count < 1:
        return train, info
    x = square.sample(count, request.generator)
    log_square = square.log_square(x)[:, 0]
    try:
        values = grid.off_grid(x[:, 0])
    except BudgetExhausted:
        return train, info
    log_weights = values - log_square
    error = float((0.5 * log_weights).exp().sub(1).square().mean().sqrt())
    info = info.replace(ess=effective_fraction(log_weights), seconds=info.seconds)
    if info.beta < 1:
        correction = torch.logsumexp(log_weights, 0) - math.log(count)
        if bool(torch.isfinite(correction)):
            train = TensorTrain(train.cores, train.log_scale + 0.5 * correction)
        return train, info.replace(error=error)
    if info.converged and error > SLACK * request.options.tol:
        sizes = f"{min(info.mode_sizes)} to {max(info.mode_sizes)}"
        return train, info.replace(
            status="basis-limited",
            error=error,
            message=f"relative error {info.error:.1e} on the nodes but {error:.1e} between them; raise the basis sizes (now {sizes})",
        )
    return train, info.replace(error=error)


def _choose_sizes(
    request: Request, log_density: LogDensity, sources: list[GridFunction]
) -> tuple[tuple[Basis, ...], CrossState | None, tuple[SweepRecord, ...]]:
    r"""Basis sizes from the decay of the coefficients of slices through the density.

    A pilot train on few nodes finds the modes; a few Gibbs walkers started from its draws move along fine slices, and
    the coefficients of :math:`\sqrt{\tilde p}` along each slice tell how many functions the coordinate needs.
    """
    unsized = [k for k, basis in enumerate(request.bases) if basis.size is None]
    pilot_bases = tuple(basis.with_size(PILOT_SIZE) if basis.size is None else basis for basis in request.bases)
    budget = None if request.budget is None else max(1, request.budget // 3)
    grid = request.grid(log_density, pilot_bases, "log_density", budget, -torch.inf)
    sources.append(grid)
    options = replace(request.options, tol=PILOT_TOL, guard_rounds=1, max_half_sweeps=4, validation=256)
    result = cross_density(
        grid,
        request.root_weights(pilot_bases),
        _reference(pilot_bases, grid.nodes),
        options=options,
        generator=request.generator,
        callback=request.callback,
        init=nearest_indices(grid.nodes, request.init_points),
        caller="fit",
    )
    drawn, _ = sample_indices(orthogonalize(result.train), WALKERS, generator=request.generator)
    walkers = grid.coordinates(drawn)
    tolerance = request.options.tol / math.sqrt(len(request.bases))
    sizes = dict.fromkeys(unsized, PILOT_SIZE)
    try:
        for sweep in range(2):
            for k in unsized:
                needed = _slice_size(request.bases[k], k, grid, walkers, tolerance, request.generator, root_density)
                sizes[k] = needed if sweep == 0 else max(needed, sizes[k])
    except BudgetExhausted:
        pass  # the sizes found so far; the others keep the pilot's
    sized = tuple(basis.with_size(sizes[k]) if k in sizes else basis for k, basis in enumerate(request.bases))
    nodes = [basis.nodes(dtype=request.dtype, device=request.device) for basis in sized]
    grid.budget = None
    pivots = _transfer_pivots(result.state, grid.nodes, nodes)
    warm = pivots if all(len(s) for s in pivots.right) else None  # the budget ended before one sweep each way
    return sized, warm, result.info.history


def root_density(values: Tensor) -> Tensor:
    """Square roots of densities, each row divided by its own largest entry; rows without density are zero."""
    top = values.max(1, keepdim=True).values
    return torch.where(torch.isfinite(top), torch.exp(0.5 * (values - top)), 0.0)


def _slice_size(
    basis: Basis,
    k: int,
    grid: GridFunction,
    walkers: Tensor,
    tol: float,
    generator: torch.Generator | None,
    amplitude: Callable[[Tensor], Tensor],
) -> int:
    """Functions needed along coordinate ``k`` through every walker; each walker then takes a Gibbs step there.

    ``amplitude`` turns the values on the slices, shape ``(walkers, n)``, into the functions that are to be resolved.
    """
    for fine_size in SLICE_SIZES:
        fine = basis.with_size(fine_size)
        x = fine.nodes(dtype=grid.dtype, device=grid.device)
        weight = fine.weights(dtype=grid.dtype, device=grid.device)
        points = walkers.repeat_interleave(len(x), 0)
        points[:, k] = x.repeat(len(walkers))
        root = amplitude(grid.off_grid(points).view(len(walkers), len(x))) * weight.sqrt()
        usable = root.norm(dim=1) > 0
        if not bool(usable.any()):
            return PILOT_SIZE
        root = root[usable]
        modes = fine.modal(root.T)
        tails = modes.square().flip(0).cumsum(0).flip(0).sqrt() / modes.norm(dim=0)
        needed = int((tails > tol).sum(0).max())
        if needed < 0.75 * fine_size:
            break
    chosen = torch.multinomial(root.square(), 1, generator=generator)[:, 0]
    walkers[usable, k] = x[chosen]
    return max(8, math.ceil(1.1 * needed) + 2)


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
