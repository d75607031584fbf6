"""What the training of a flow tells about itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FlowInfo", "FlowRecord", "FlowStatus"]

FlowStatus = Literal["finished", "converged", "stopped early", "budget exhausted", "nothing to train"]


@dataclass(frozen=True)
class FlowRecord:
    """One look at held-out points during training.

    Attributes:
        step: steps taken.
        loss: mean loss since the last record, nats.
        elbo: held-out evidence lower bound; the held-out mean log-likelihood when training on samples (nats).
        ess: held-out effective sample fraction; NaN when training on samples.
        score: what the best state is chosen by, smaller is better: the symmetrised divergence
            KL(q‖p) + KL(p‖q) of the held-out weights, or the negative log-likelihood (nats).
        learning_rate: at that step.
        num_evaluations: points paid for so far.
    """

    step: int
    loss: float
    elbo: float
    ess: float
    score: float
    learning_rate: float
    num_evaluations: int


@dataclass(frozen=True)
class FlowInfo:
    """The report of the training of a flow.

    Attributes:
        status: why training ended: ``finished`` (all steps), ``converged`` (nothing left to gain), ``stopped early`` (no
            gain on held-out points), ``budget exhausted``, ``nothing to train``.
        message: one sentence: the verdict.
        objective: what was minimised.
        kept: whether the flow was significantly better than its base; otherwise the flow *is* its base.
        ess_before, ess_after: effective sample fraction of base and trained flow on the same fresh draws, in float64; NaN
            when training on samples.
        elbo_before, elbo_after: evidence lower bounds on them; held-out mean log-likelihoods when training on samples.
        num_evaluations: points of the log-density paid for, those with gradients included.
        num_invalid: NaN and +inf among them.
        steps: steps taken.
        skipped: batches whose gradient was not finite.
        best_step: step of the state that was restored.
        seconds: wall time.
        history: one record per look at held-out points.
    """

    status: FlowStatus
    message: str
    objective: str
    kept: bool
    ess_before: float
    ess_after: float
    elbo_before: float
    elbo_after: float
    num_evaluations: int
    num_invalid: int
    steps: int
    skipped: int
    best_step: int
    seconds: float
    history: tuple[FlowRecord, ...] = ()

    def replace(self, **changes: Any) -> FlowInfo:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
