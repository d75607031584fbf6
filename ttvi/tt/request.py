"""What every fit shares: checked arguments, grids, an account of what was paid for, and the verdict between the nodes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ConvergenceWarning, EvaluationError
from ..typing import BatchFunction
from .arguments import seeded
from .basis import Basis
from .cache import GridFunction
from .cross import CrossOptions
from .report import CrossInfo, SweepRecord
from .train import TensorTrain

__all__ = ["CHECK_DRAWS", "Fit", "Request", "accounted", "judged", "nearest_indices"]

CHECK_DRAWS = 1000
SLACK = 3.0  # an independent error this far above tol is noise of the estimate, more is a failure

Fit = tuple[TensorTrain, tuple[Basis, ...], CrossInfo]
"""What a fit ends with: coefficients, bases with sizes, report."""


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
        generator = seeded(generator, seed, where, caller)
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


def accounted(work: Callable[[list[GridFunction]], Fit]) -> Fit:
    """Run a fit; its report counts what was paid for on every grid, also when the function raises. Warns once if it fell short.

    Args:
        work: the fit; it enters every grid in the list that it is given before it pays for anything there.

    Raises:
        EvaluationError: the function raised, or is unusable; ``.info`` is the account.
    """
    sources: list[GridFunction] = []
    try:
        train, sized, info = work(sources)
    except EvaluationError as failure:
        failure.info = _complete(failure.info or _nothing(sources[-1].mode_sizes), sources)
        raise
    info = _complete(info, sources)
    if not info.converged:
        warnings.warn(f"fit: {info.status}: {info.message}.", ConvergenceWarning, stacklevel=4)
    return train, sized, info


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


def judged(info: CrossInfo, error: float, tol: float) -> CrossInfo:
    """The report with the error between the nodes; a fit that converged on the nodes alone is limited by its bases."""
    if not info.converged or error <= SLACK * tol:
        return info.replace(error=error)
    sizes = f"{min(info.mode_sizes)} to {max(info.mode_sizes)}"
    return info.replace(
        status="basis-limited",
        error=error,
        message=f"relative error {info.error:.1e} on the nodes but {error:.1e} between them; raise the basis sizes (now {sizes})",
    )
