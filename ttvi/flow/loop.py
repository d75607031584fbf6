"""The training loop: steps, looks at held-out points, the best state kept, and a file to continue from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import BudgetExhausted, MissingExtraError
from ..tt.storage import load_tensors, save_tensors
from .flat import Flat
from .objectives import Counted, Loss
from .report import FlowRecord, FlowStatus

__all__ = ["Look", "Loop", "Settings"]

WARM_UP = 0.05  # share of the steps over which the learning rate rises; it then falls along a cosine
LONGEST_WARM_UP = 20  # steps: Adam needs no more to know the size of the gradients
LAST_RATE = 0.01  # of the learning rate, at the end
CLIP = 10.0  # largest norm of a gradient


@dataclass(frozen=True)
class Settings:
    """What a run of the loop is told.

    Attributes:
        steps: how many.
        learning_rate: the largest.
        check_every: steps between looks at held-out points.
        patience: steps without a gain there before it stops; ``None`` never stops.
        enough: score at which nothing is left to gain.
        fingerprint: what must agree between a checkpoint and the fit that continues from it.
    """

    steps: int
    learning_rate: float
    check_every: int
    patience: int | None = None
    enough: float = -math.inf
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then half a cosine."""
        rise = max(1, min(LONGEST_WARM_UP, round(WARM_UP * self.steps)))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        phase = (step - rise) / max(1, self.steps - rise)
        return self.learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * phase)))


@dataclass(frozen=True)
class Look:
    """What held-out points say: the score (smaller is better), bound or log-likelihood, and effective sample fraction."""

    score: float
    elbo: float
    ess: float = math.nan


class Keeper(Protocol):
    """Something with a state that a checkpoint must hold beside the parameters."""

    def tensors(self) -> dict[str, Tensor]:
        """The state."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take it back."""
        ...


class Loop:
    """Adam on a module's parameters, with everything around it.

    Args:
        module: whose parameters are trained; ends in its best state.
        loss: of one step, from the inverse temperature's progress in [0, 1].
        look: at held-out points.
        settings: numbers.
        generator: source of the batches; its state is part of a checkpoint.
        target: the account of evaluations, if there is one.
        keeper: what else a checkpoint must hold.
        checkpoint: file to write at every look and to continue from if it is there.
        callback: called with every :class:`FlowRecord`.
        progress: show a bar (extra ``progress``).
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[int], Loss],
        look: Callable[[], Look],
        settings: Settings,
        *,
        generator: torch.Generator,
        target: Counted | None = None,
        keeper: Keeper | None = None,
        checkpoint: Any = None,
        callback: Callable[[FlowRecord], None] | None = None,
        progress: bool = False,
    ) -> None:
        self.module, self.loss, self.look, self.settings = module, loss, look, settings
        self.generator, self.target, self.callback = generator, target, callback
        self.keeper = keeper
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.flat = Flat([p for p in module.parameters() if p.requires_grad])
        self.optimizer = torch.optim.Adam(self.flat.vectors, lr=settings.learning_rate, fused=True)
        self.step = self.skipped = self.best_step = 0
        self.best_score = math.inf
        self.best = self._copy()
        self.history: list[FlowRecord] = []
        self.status: FlowStatus = "finished"
        self.bar = _bar(settings.steps) if progress else None

    def run(self) -> None:
        """Train to the end, or on from the checkpoint."""
        try:
            if not self._restore():
                self._check(math.nan)
            while self.step < self.settings.steps and not self._done():
                until = min(self.settings.steps, self.step + self.settings.check_every)
                try:
                    mean_loss = self._steps(until)
                except BudgetExhausted:
                    self.status = "budget exhausted"
                    break
                self._check(mean_loss)
        finally:
            if self.bar is not None:
                self.bar.close()
        with torch.no_grad():
            for vector, best in zip(self.flat.vectors, self.best):
                vector.copy_(best)
        self.flat.release()

    def _steps(self, until: int) -> float:
        total, count = 0.0, 0
        while self.step < until:
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate(self.step)
            loss = self.loss(self.step)
            # Norm and value in one look: it waits for the device.
            norm, value = torch.stack([self.flat.differentiate(loss.surrogate), loss.value.double()]).tolist()
            if math.isfinite(norm) and math.isfinite(value):
                if norm > CLIP:
                    self.flat.shrink(CLIP / norm)
                self.optimizer.step()
                total += value
                count += 1
            else:
                self.skipped += 1
            self.step += 1
        return total / count if count else math.nan

    def _check(self, mean_loss: float) -> None:
        """Look, remember, show, write."""
        look = self.look()
        if look.score < self.best_score or not self.history:
            self.best_score, self.best_step, self.best = look.score, self.step, self._copy()
        paid = self.target.num_evaluations if self.target is not None else 0
        rate = self.settings.rate(self.step)
        self.history.append(FlowRecord(self.step, mean_loss, look.elbo, look.ess, look.score, rate, paid))
        if self.bar is not None:
            self.bar.update(self.step - self.bar.n)
            self.bar.set_postfix(ess=f"{look.ess:.3f}", elbo=f"{look.elbo:.3f}")
        if self.checkpoint is not None:
            self._save()
        if self.callback is not None:
            self.callback(self.history[-1])

    def _done(self) -> bool:
        if self.best_score <= self.settings.enough:
            self.status = "converged"
            return True
        patience = self.settings.patience
        if patience is not None and self.step - self.best_step >= patience:
            self.status = "stopped early"
            return True
        return False

    def _copy(self) -> list[Tensor]:
        return [vector.detach().clone() for vector in self.flat.vectors]

    # -- the checkpoint ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {"generator": self.generator.get_state()}
        for k, vector in enumerate(self.flat.vectors):
            tensors[f"parameter.{k}"], tensors[f"best.{k}"] = vector.detach(), self.best[k]
            for name, value in self.optimizer.state[vector].items():
                tensors[f"adam.{k}.{name}"] = value
        if self.keeper is not None:
            tensors |= {f"keeper.{name}": value for name, value in self.keeper.tensors().items()}
        header = {
            "fingerprint": self.settings.fingerprint,
            "step": self.step,
            "skipped": self.skipped,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "history": [dataclasses.astuple(record) for record in self.history],
            "evaluations": [self.target.num_evaluations, self.target.num_invalid]
            if self.target is not None
            else [0, 0],
        }
        save_tensors(self.checkpoint, tensors, header, "FlowCheckpoint")

    def _restore(self) -> bool:
        """Continue where the file ends, if there is one."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return False
        tensors, header = load_tensors(self.checkpoint, "FlowCheckpoint")
        expected = self.settings.fingerprint
        if header["fingerprint"] != expected:
            differing = sorted(
                k for k in {*expected, *header["fingerprint"]} if header["fingerprint"].get(k) != expected.get(k)
            )
            raise ValueError(
                f"fit: expected a checkpoint of the same fit at {self.checkpoint}; got another {', '.join(differing)}. "
                "Repeat the arguments and the seed, or name another file."
            )
        with torch.no_grad():
            for k, vector in enumerate(self.flat.vectors):
                vector.copy_(tensors[f"parameter.{k}"])
                self.best[k].copy_(tensors[f"best.{k}"])
                start = f"adam.{k}."
                state = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
                self.optimizer.state[vector] = {n: t.to(vector.device) for n, t in state.items()}
        self.generator.set_state(tensors["generator"])
        if self.keeper is not None:
            kept = {n.removeprefix("keeper."): t for n, t in tensors.items() if n.startswith("keeper.")}
            self.keeper.restore({name: value.to(self.generator.device) for name, value in kept.items()})
        self.step, self.skipped = header["step"], header["skipped"]
        self.best_step, self.best_score = header["best_step"], header["best_score"]
        self.history = [FlowRecord(*record) for record in header["history"]]
        if self.target is not None:
            self.target.restore(*header["evaluations"])
        return True


def _bar(steps: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtraError("fit", "tqdm", "progress") from None
    return tqdm(total=steps, desc="flow", unit="step")
