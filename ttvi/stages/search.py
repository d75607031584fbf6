"""What the stages of one fit share: the account, the coordinates, the plan, and what was learnt on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..evaluation import Evaluations
from ..geometry.assessment import Assessment, assess
from ..geometry.atlas import Atlas
from ..geometry.axes import markov_order
from ..geometry.candidates import Candidate
from ..geometry.chart import Chart
from ..geometry.coordinates import Coordinates, Pullback
from ..geometry.density import ChartDensity
from ..geometry.exploration import Cloud
from ..tt.density import TTDensity
from .plan import Plan

__all__ = ["Fitted", "LogDensityWithGradient", "Search", "Tried", "merit"]


@dataclass
class Fitted:
    """A density of ``x`` and what its weights say.

    Attributes:
        density: of ``x``.
        ess: effective share of fresh draws.
        elbo: trimmed mean log weight.
        label: in words.
        train: the train behind it, if there is one.
        candidate: the chart and train that it is, or that a mixture is made around; None for an atlas or a flow.
        uncut: the same with its far ends cut much further out, of ``x``; None if nothing was cut.
        ends: where that is, in working coordinates, shape (m,) each.
    """

    density: Any
    ess: float
    elbo: float
    label: str
    train: TTDensity | None = None
    candidate: Candidate | None = None
    uncut: Any = None
    ends: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, candidate: Candidate) -> Fitted:
        """A candidate as a density of ``x``."""
        a = candidate.assessment
        density = ChartDensity(candidate.density, candidate.chart)
        train = candidate.density if isinstance(candidate.density, TTDensity) else None
        return cls(density, a.ess, a.elbo, candidate.label, train, candidate)


@dataclass(frozen=True)
class Tried:
    """A mixture over regions and what its weights said.

    Attributes:
        density: of ``x``, as a flow starts from it or as it is mixed in.
        drawn: as it was drawn from, which may reach further.
        seen: its weighted draws.
    """

    density: Atlas
    drawn: Atlas
    seen: Assessment


class LogDensityWithGradient(Protocol):
    """A log-density whose evaluations are paid for."""

    def __call__(self, x: Tensor) -> Tensor:
        """Values, shape (batch, D) to (batch,)."""

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (batch,) and gradients (batch, D)."""


@dataclass
class Search:
    """One fit under way. The stages are functions of it; they pay from its account and write down what they learn.

    Attributes:
        account: where evaluations are paid.
        coordinates: from ``x`` to the working coordinates ``t``.
        plan: who may spend how much.
        generator: source of randomness.
        gradient: whether the account has gradients.
        notes: what the user is told about the choices.
        tried: rows of the table of what was tried.
        seen: the charts' products and trains, as they were assessed.
        atlases: mixtures over regions.
        density: the log-density of ``x`` that is fitted: that of the account, one half of it, or with its coordinates in another order.
        whole: whether it is not one half.
        target: the log-density of ``t``.
        cloud: where the mass is; the exploration sets it.
        chart: the triangular chart that the equilibration ended with, if there was one.
        nested: the chart in which a few coordinates lead, if there is one.
        most_per_train: evaluations beyond which a train would be no better; None where nobody knows.
    """

    account: Evaluations
    coordinates: Coordinates
    plan: Plan
    generator: torch.Generator
    gradient: bool
    notes: list[str] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    seen: list[Candidate] = field(default_factory=list)
    atlases: list[Tried] = field(default_factory=list, repr=False)
    density: LogDensityWithGradient = field(init=False, repr=False)
    target: Pullback = field(init=False, repr=False)
    cloud: Cloud = field(init=False, repr=False)
    chart: Chart | None = None
    nested: Chart | None = None
    most_per_train: int | None = None
    whole: bool = True

    def __post_init__(self) -> None:
        self.turn_to(self.account)

    @property
    def order(self) -> Tensor | None:
        """In which the lines follow from each other, by the curvature at the highest maximum; None where they do not."""
        if self.cloud.precisions is None or not len(self.cloud.precisions):
            return None
        line = self.coordinates.line
        return markov_order(self.cloud.precisions[0][line][:, line])

    def record(self, candidate: Candidate) -> None:
        """Remember a candidate."""
        self.tried.append(candidate.row())
        self.seen.append(candidate)

    def record_atlas(self, kind: str, tried: Tried) -> None:
        """Remember an atlas, and what it was worth."""
        seen = tried.seen
        row = {"geometry": "atlas", "kind": kind, "ess": seen.ess, "elbo": seen.elbo, "pareto_k": seen.pareto_k}
        self.tried.append(row)
        self.atlases.append(tried)

    def turn_to(self, density: LogDensityWithGradient) -> None:
        """Fit this density of ``x`` from now on."""
        self.density = density
        self.target = Pullback(self.coordinates, density, density.value_and_gradient if self.gradient else None)

    def weigh(self, density: Any) -> Assessment:
        """Weights of draws of ``x``."""
        return assess(density, self.density, self.plan.checks, self.generator)

    def left(self, part: float, *, among: int = 1) -> int | None:
        """A part of what is left of the budget, for each of so many; None without a budget."""
        return None if self.plan.budget is None else int(part * self.account.remaining / among)


def merit(candidate: Candidate) -> float:
    """Log of the effective share, and where hardly anything is effective the bound of the evidence."""
    a = candidate.assessment
    if a.ess <= 0:
        return -math.inf
    reliable = a.ess * len(a.points) > 20 and a.pareto_k < 1
    return math.log(a.ess) if reliable else -10.0 + max(-1e6, a.elbo - a.log_evidence) * 1e-3
