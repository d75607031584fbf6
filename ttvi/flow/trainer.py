"""What one step of a fit to a log-density costs and minimises."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .flow import Flow
from .loop import Look
from .objectives import Counted, Loss, Pool, divergence, likelihood, reverse, truncated_weights
from .verdict import look_at_draws

__all__ = ["Plan", "Trainer"]

FORWARD_SHARE = 0.5  # of the mixed objective
REFRESHES = 4  # times that the weighted likelihood draws from the flow of the moment
FIRST_BETA = 0.1  # inverse temperature at which annealing starts


@dataclass(frozen=True)
class Plan:
    """How a budget is spent.

    Attributes:
        steps, batch: of training.
        check_every: steps between looks.
        held: draws of a look.
        verdict: draws of base and of flow, each, at the end.
        budget: all of it.
    """

    steps: int
    batch: int
    check_every: int
    held: int
    verdict: int
    budget: int | None

    @classmethod
    def make(cls, steps: int, batch: int, budget: int | None) -> Plan:
        """Within a budget a fifth is for the verdict, a seventh for the looks, and the rest for steps."""
        looks = max(1, min(20, steps // 25))
        if budget is None:
            return cls(steps, batch, -(-steps // looks), 1024, 4096, None)
        verdict = min(4096, budget // 10)
        held = min(1024, budget // 7 // (looks + 1))
        left = budget - 2 * verdict - held * (looks + 1) - 2
        batch = min(batch, max(16, left // 50))
        steps = min(steps, left // batch if held and verdict else 0)
        return cls(steps, batch, max(1, -(-steps // looks)), held, verdict, budget)

    def pool(self, objective: str) -> int:
        """The largest pool of use: where a budget pays for its values, all refreshes together take what the steps would."""
        if self.budget is None or objective != "forward":
            return self.steps * self.batch
        return max(1, self.steps * self.batch // (2 * REFRESHES + 1))


class Trainer:
    """The loss of a step and the look at held-out draws, for one objective."""

    def __init__(
        self, flow: Flow, target: Counted, pool: Pool, plan: Plan, objective: str, anneal: float, rng: torch.Generator
    ) -> None:
        self.flow, self.target, self.pool, self.plan = flow, target, pool, plan
        self.objective, self.anneal, self.rng = objective, anneal, rng
        self.start = copy.deepcopy(flow.base_module) if flow.base_module.trainable else flow.base_module
        self.points = self.weights = torch.zeros(0)
        self.stage = -1
        self.pool_values: Tensor | None = None

    def loss(self, step: int) -> Loss:
        """Of one batch."""
        if self.objective == "forward":
            return self._weighted(step)
        beta = 1.0
        if self.anneal:
            beta = min(1.0, FIRST_BETA + (1 - FIRST_BETA) * step / (self.anneal * self.plan.steps))
        if self.flow.base_module.trainable:
            return reverse(self.flow, self.target, self.plan.batch, self.rng, beta=beta)
        share = FORWARD_SHARE if self.objective == "mixed" else 0.0
        path = self.objective != "reverse"
        batch = self.pool.batch(self.plan.batch, self.rng)
        return divergence(self.flow, self.target, batch, forward_share=share, beta=beta, path=path)

    def _weighted(self, step: int) -> Loss:
        stage = step * REFRESHES // self.plan.steps
        if stage != self.stage:
            self._refresh(stage)
        index = torch.multinomial(self.weights, self.plan.batch, replacement=True, generator=self.rng)
        return likelihood(self.flow, self.points[index])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the weighted points of the moment."""
        if self.pool_values is None:
            return {}
        stage = torch.tensor(self.stage)
        return {"points": self.points, "weights": self.weights, "values": self.pool_values, "stage": stage}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back."""
        if tensors:
            self.points, self.weights, self.pool_values = (tensors[name] for name in ("points", "weights", "values"))
            self.stage = int(tensors["stage"])

    def _refresh(self, stage: int) -> None:
        """Draws of the original base and, from the second stage on, of the flow, weighted by their mixture."""
        self.stage = stage
        with torch.no_grad():
            if self.pool_values is None:
                self.pool_values = self.target.values(self.pool.z)
            points, values, log_prob = self.pool.z, self.pool_values, self.pool.log_prob
            if stage:
                x = self.flow.sample((len(points),), generator=self.rng)
                points, values = torch.cat([points, x]), torch.cat([values, self.target.values(x)])
                log_start = torch.cat([log_prob, self.start.log_prob(x)])
                log_prob = torch.logaddexp(log_start, self.flow.log_prob(points)) - math.log(2)
            self.points = points
            self.weights = truncated_weights(values - log_prob)

    def look(self, held: Pool) -> Look:
        """At held-out draws."""
        if self.flow.base_module.trainable:
            seed = torch.Generator(self.rng.device).manual_seed(1)
            z = self.flow.base_module.sample(torch.Size([len(held)]), seed)
            with torch.no_grad():
                return look_at_draws(self.flow, self.target, z, self.flow.base_module.log_prob(z))
        return look_at_draws(self.flow, self.target, held.z, held.log_prob)
