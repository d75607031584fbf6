"""What a fit tells about itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .cache import GridFunction

__all__ = ["CrossInfo", "Status", "SweepRecord"]

Status = Literal["converged", "rank-limited", "basis-limited", "stalled", "budget exhausted", "interrupted"]


@dataclass(frozen=True)
class SweepRecord:
    """One half-sweep.

    Attributes:
        stage: ``"ladder"`` while tempering, ``"refine"`` at the target.
        beta: inverse temperature (1 for functions).
        sweep: running number of the half-sweep.
        ranks: the ``d + 1`` ranks after it.
        residual: relative norm that test fibers showed outside the previous column spaces.
        error: relative L2 error estimated from independent draws, where it was measured.
        num_evaluations: evaluations paid so far.
    """

    stage: str
    beta: float
    sweep: int
    ranks: tuple[int, ...]
    residual: float
    error: float | None
    num_evaluations: int


@dataclass(frozen=True)
class CrossInfo:
    """The report of a cross approximation.

    Attributes:
        status: ``converged``; ``rank-limited`` (``max_rank`` is too small for ``tol``); ``basis-limited`` (the train
            matches the function on the nodes, not between them); ``stalled`` (sweeps no longer help);
            ``budget exhausted``; ``interrupted`` (the function raised).
        message: one sentence: why it stopped, and what to do about it.
        error: relative L2 error from independent draws (between the nodes, for densities and functions).
        ess: effective sample fraction of independent draws (densities only).
        num_evaluations: points paid for; none twice.
        num_invalid: NaN and +inf among them, treated as zero density.
        ranks: final ranks, the outer ones included.
        mode_sizes: basis size of every mode.
        beta: the inverse temperature that was reached; below one the answer is a tempered density.
        seconds: wall time.
        history: one record per half-sweep.
    """

    status: Status
    message: str
    error: float
    num_evaluations: int
    num_invalid: int
    ranks: tuple[int, ...]
    mode_sizes: tuple[int, ...]
    seconds: float
    history: tuple[SweepRecord, ...]
    beta: float = 1.0
    ess: float = float("nan")
    _sources: tuple[GridFunction, ...] = field(default=(), repr=False, compare=False)

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.status == "converged"

    def points(self) -> Tensor:
        """Every point paid for, shape ``(num_evaluations, d)``, in the order of payment (rebuilt on demand)."""
        return torch.cat([source.points()[0] for source in self._sources])

    @property
    def values(self) -> Tensor:
        """The stored value at every point of :meth:`points`, shape ``(num_evaluations,)``."""
        return torch.cat([source.points()[1] for source in self._sources])

    def replace(self, **changes: object) -> CrossInfo:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]
