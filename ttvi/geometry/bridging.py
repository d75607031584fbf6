"""Building a bridge: inverse temperatures, trains and pulled-back densities, one layer after the other."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..diagnostics import effective_sample_size
from ..errors import BudgetExhausted, ConvergenceWarning, EvaluationError
from ..tt.arguments import seeded
from ..tt.basis import Basis
from ..tt.density import TTDensity
from ..typing import LogDensity
from .assessment import Assessment
from .bridge import Bridge

__all__ = ["BridgeFit", "BridgeLayer", "build_bridge"]

KEPT = 0.35  # effective share of the draws that the next inverse temperature keeps
GROWTH = (1.2, 4.0)  # least and most factor between two of them: at four a width is halved, which few functions resolve
GOOD = 0.8  # effective share, at its own temperature, from which on a layer counts as good
FIRST_GOOD = 0.95  # and the first one: later layers hardly find what it leaves out
DEFENSIVE = 1e-3  # weight of the reference in every layer: it bounds what the next ones have to mend
COOLER = 3.0  # factor between attempts at the first train
ROUGH = (0.15, 21)  # tolerance and functions per coordinate of a layer; loose trains are smooth, and the next one mends
CAREFUL = 27  # functions per coordinate where that was not good, with the tolerance asked for
MENDED = (1.0, 4.0)  # nats of error that a loose layer and a careful one mend
ENOUGH = 0.97
GAIN = 1.1
FIRST_SHARE = 0.15  # of the remaining budget, for one attempt at the first train
MOST = 200_000  # evaluations of one train where there is no budget
LEAST = 200  # and with which one is still begun
INITIAL = 8  # points that a train is begun from


@dataclass(frozen=True)
class BridgeLayer:
    """One layer of a bridge, or an attempt at one.

    Attributes:
        beta: the inverse temperature that it was built for.
        rank: the largest of its train.
        ess: effective share of fresh draws of the composition, at ``beta``.
        target_ess: the same at the target itself.
        status: of the fit of its train.
        num_evaluations: paid for it, draws included.
        kept: whether it is part of the composition.
    """

    beta: float
    rank: int
    ess: float
    target_ess: float
    status: str
    num_evaluations: int
    kept: bool = False


@dataclass(frozen=True)
class BridgeFit:
    """What :func:`build_bridge` returns.

    Attributes:
        density: the composition, normalised.
        layers: every attempt, in order.
        assessment: weighted draws of ``density`` at the target.
        num_evaluations: in all.
        seconds: wall time.
        message: one sentence: why it stopped.
    """

    density: Bridge
    layers: tuple[BridgeLayer, ...]
    assessment: Assessment
    num_evaluations: int
    seconds: float
    message: str

    @property
    def betas(self) -> tuple[float, ...]:
        """Inverse temperatures of the layers that were kept."""
        return tuple(layer.beta for layer in self.layers if layer.kept)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Largest ranks of the layers that were kept."""
        return tuple(layer.rank for layer in self.layers if layer.kept)


@dataclass(frozen=True)
class _State:
    """A composition and weighted draws of it: levels of its last layer and points (N, d), log p̃ and log q (N,)."""

    bridge: Bridge
    beta: float
    attempts: tuple[int, ...]  # numbers of those that its layers come from
    levels: Tensor
    points: Tensor
    values: Tensor
    log_prob: Tensor

    def log_weights(self, beta: float) -> Tensor:
        weights = beta * self.values - self.log_prob
        return torch.where(torch.isfinite(weights), weights, -math.inf)

    def ess(self, beta: float) -> float:
        return effective_sample_size(self.log_weights(beta))

    def next_beta(self) -> float:
        """The largest inverse temperature at which the draws keep their share, within bounds on the step."""
        reached = _largest(lambda beta: self.ess(beta) >= KEPT, self.beta)
        return min(1.0, max(GROWTH[0] * self.beta, min(reached, GROWTH[1] * self.beta)))


def build_bridge(
    log_density: LogDensity,
    bases: Sequence[Basis],
    *,
    tol: float = 0.05,
    max_rank: int = 8,
    first_rank: int = 12,
    budget: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    dtype: torch.dtype = torch.float64,
    init_points: Tensor | None = None,
    checks: int = 2048,
    most_layers: int = 16,
    start: float | None = None,
) -> BridgeFit:
    r"""A composition of trains for a density that one train cannot hold, along :math:`\tilde p^\beta`.

    The first train is built at an inverse temperature low enough for a small one to be good. The map of what there is pulls
    :math:`\tilde p^\beta` back to nearly the reference, if ``beta`` takes a step that keeps a third of the draws effective; that
    is fitted by the next train; and so on to :math:`\beta = 1`, where further layers mend what is left while that helps.

    Args:
        log_density: ``(batch, d)`` to ``(batch,)``, in the coordinates of the bases.
        bases: one per coordinate, continuous; a basis without size has it chosen.
        tol: tolerance of the layers that a loose one was not good enough for.
        max_rank: cap on the ranks of the layers after the first.
        first_rank: cap on the ranks of the first.
        budget: the most evaluations.
        generator, seed: source of randomness; ``seed`` makes a generator.
        dtype: in which to compute.
        init_points: points known to matter, shape (m, d).
        checks: draws, and evaluations, by which every layer is judged and the next inverse temperature chosen.
        most_layers: in all.
        start: the first inverse temperature, where it is known; found by trying when None.

    Returns:
        The density and how it came about; a budget that ends leaves the best composition so far.

    Raises:
        TypeError: there is a finite coordinate.
        BudgetExhausted: the budget does not cover the first layer.
        EvaluationError: the function raised, or is zero everywhere, before there was a first layer.

    References:
        Cui, Dolgov: Deep composition of tensor-trains using squared inverse Rosenblatt transports (2022).

    >>> from ttvi.tt import Legendre
    >>> def ridge(x):  # a parabola of width 0.1
    ...     return -0.5 * x[:, 0].square() - 0.5 * ((x[:, 1] - x[:, 0].square()) / 0.1).square()
    >>> fit = build_bridge(ridge, [Legendre(-4.0, 4.0), Legendre(-2.0, 12.0)], seed=0)
    >>> fit.assessment.ess > 0.7, abs(fit.assessment.log_evidence - math.log(2 * math.pi * 0.1)) < 0.05
    (True, True)
    """
    began = time.perf_counter()
    if any(basis.discrete for basis in bases):
        raise TypeError(
            "build_bridge: expected continuous coordinates; got a Categorical one. "
            "The transport of a finite coordinate is no bijection: use a train, or condition on it."
        )
    generator = seeded(generator, seed, torch.device("cpu"), "build_bridge")
    run = _Run(log_density, list(bases), tol, max_rank, first_rank, budget, generator, dtype, init_points, checks)
    best, message = run.climb(run.begin(start), most_layers)
    layers = tuple(replace(layer, kept=k in best.attempts) for k, layer in enumerate(run.attempts))
    return BridgeFit(
        best.bridge, layers, Assessment.of(best.points, best.log_weights(1.0)), run.num_evaluations,
        time.perf_counter() - began, message,
    )  # fmt: skip


@dataclass
class _Run:
    """The account of one bridge, and what its fits share."""

    log_density: LogDensity
    bases: list[Basis]
    tol: float
    max_rank: int
    first_rank: int
    budget: int | None
    generator: torch.Generator | None
    dtype: torch.dtype
    init_points: Tensor | None
    checks: int
    num_evaluations: int = 0
    attempts: list[BridgeLayer] = field(default_factory=list)

    @property
    def remaining(self) -> float:
        return math.inf if self.budget is None else self.budget - self.num_evaluations

    def evaluate(self, w: Tensor) -> Tensor:
        values = self.log_density(w)
        self.num_evaluations += len(w)
        return values

    # -- the first layer ---------------------------------------------------------------------------------------------------

    def begin(self, beta: float | None) -> _State:
        """The first train, half-way (in the logarithm) to where the bases' reference would do, or nearer to that."""
        if beta is not None:
            return self.first(beta)
        floor = self.flat()
        beta = math.sqrt(floor)
        best = self.first(beta)
        while best.ess(best.beta) < FIRST_GOOD and beta > floor:
            beta = max(floor, beta / COOLER)
            try:
                state = self.first(beta)
            except (BudgetExhausted, EvaluationError, torch.linalg.LinAlgError):
                break
            best = max(best, state, key=lambda s: s.ess(s.beta))
        return best

    def flat(self) -> float:
        """The inverse temperature at which draws of the reference of the bases keep their share."""
        if self.remaining < 2 * self.checks:
            raise BudgetExhausted(f"{2 * self.checks} evaluations wanted, {int(self.remaining)} left")
        u = torch.rand(self.checks, len(self.bases), dtype=self.dtype, generator=self.generator)
        columns = list(zip(self.bases, u.unbind(1), strict=True))
        points = torch.stack([basis.reference_icdf(column) for basis, column in columns], 1)
        log_prob = torch.stack(
            [basis.reference_log_prob(x) for basis, x in zip(self.bases, points.unbind(1), strict=True)]
        ).sum(0)
        values = self.evaluate(points).to(self.dtype)

        def share(beta: float) -> float:
            weights = beta * values - log_prob
            return effective_sample_size(torch.where(torch.isfinite(weights), weights, -math.inf))

        return _largest(lambda beta: share(beta) >= KEPT, 1e-12)

    def first(self, beta: float) -> _State:
        def tempered(w: Tensor) -> Tensor:
            return beta * self.evaluate(w)

        limit = FIRST_SHARE * self.remaining
        spent = self.num_evaluations
        layer = self.train(tempered, self.bases, ROUGH[0], self.first_rank, limit, self.init_points)
        return self.judge([layer], (), beta, spent)

    # -- the layers after it -----------------------------------------------------------------------------------------------

    def climb(self, state: _State, most_layers: int) -> tuple[_State, str]:
        """Layer after layer; the best composition at the target, and why it ends there."""
        best = state
        message = f"{most_layers} layers; allow more, or higher ranks"
        try:
            while len(state.bridge.layers) < most_layers:
                share = state.ess(1.0)
                if state.beta >= 1 and share >= ENOUGH:
                    message = f"an effective share of {share:.2g}"
                    break
                grown = self.grown(state)
                if grown is None:
                    message = f"no further layer helped at an inverse temperature of {state.beta:.2g}"
                    break
                stalled = state.beta >= 1 and grown.ess(1.0) < GAIN * share
                state = grown
                best = max(best, state, key=lambda s: s.ess(1.0))
                if stalled:
                    message = f"a further layer brought little: an effective share of {state.ess(1.0):.2g}"
                    break
        except (BudgetExhausted, EvaluationError, torch.linalg.LinAlgError) as failure:
            message = f"stopped at an inverse temperature of {state.beta:.2g}: {failure}"
        return best, message

    def grown(self, state: _State) -> _State | None:
        """One more layer: loosely, then with care, then with care and half the step; None if none of them helps."""
        beta = state.next_beta()
        tries = [(beta, *ROUGH)] if state.beta < 1 else []
        tries += [(beta, self.tol, CAREFUL)]
        tries += [(math.sqrt(beta * state.beta), self.tol, CAREFUL)] if state.beta < 1 else []
        best: _State | None = None
        for step, tol, size in tries:
            if best is not None and step < best.beta:
                break
            new = self.next(state, step, tol, size)
            if new.ess(step) >= GOOD and state.beta < 1:
                return new
            if new.ess(step) > max(state.ess(step), 0.0 if best is None else best.ess(step)):
                best = new
        return best

    def next(self, state: _State, beta: float, tol: float, size: int) -> _State:
        r"""One more layer, for :math:`\tilde p^\beta` pulled back.

        That is the known step :math:`\tilde p^{\beta-\beta_0}` times the error :math:`\tilde p^{\beta_0}/q` of what there is.
        Where ``q`` all but vanishes the error has narrow spikes, for which a train would spend all of its ranks: it is
        mended up to a nat or so, smoothly, and left to later layers and to the weights beyond.
        """
        bridge, reference = state.bridge, state.bridge.reference
        level = state.log_weights(state.beta).median()
        most = MENDED[size != ROUGH[1]]

        def pulled(v: Tensor) -> Tensor:
            w, volume = bridge.push(v)
            values = self.evaluate(w).to(v)
            error = state.beta * values + volume - reference.log_density - level
            result = (beta - state.beta) * values + most * torch.tanh(error / most)
            # Between equal temperatures a zero density would be lost in 0 · inf.
            return torch.where(values == -math.inf, values, result)

        top = state.log_weights(beta).argsort(descending=True)[:INITIAL]
        init = reference.point(state.levels[top])
        bases = [basis.with_size(size) for basis in reference.bases()]
        # As many layers of this step as lead to the target, and two to mend.
        step = max(math.log(GROWTH[0]), math.log(beta / state.beta))
        ahead = 2 + math.ceil(-math.log(beta) / step)
        spent = self.num_evaluations
        layer = self.train(pulled, bases, tol, self.max_rank, self.remaining / ahead, init)
        return self.judge([*bridge.layers, layer], state.attempts, beta, spent)

    # -- both --------------------------------------------------------------------------------------------------------------

    def train(
        self, function: LogDensity, bases: Sequence[Basis], tol: float, rank: int, limit: float, init: Tensor | None
    ) -> TTDensity:
        """A train within ``limit`` evaluations, and within the budget less the draws that judge it."""
        limit = int(min(limit, self.remaining - self.checks, MOST if self.budget is None else math.inf))
        if limit < LEAST:
            raise BudgetExhausted(f"{LEAST} evaluations wanted for a layer, {max(0, limit)} left")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                return TTDensity.fit(
                    function, bases, tol=tol, max_rank=rank, budget=limit, generator=self.generator,
                    dtype=self.dtype, init_points=init, defensive=DEFENSIVE,
                )  # fmt: skip
            except EvaluationError as failure:
                if isinstance(failure.__cause__, BudgetExhausted):
                    raise failure.__cause__ from failure
                raise

    def judge(self, layers: Sequence[TTDensity], before: tuple[int, ...], beta: float, spent: int) -> _State:
        """Fresh draws of a composition, and their weights."""
        bridge = Bridge(layers)
        with torch.no_grad():
            levels = torch.rand(self.checks, len(self.bases), dtype=self.dtype, generator=self.generator)
            points = bridge.inverse_rosenblatt(levels)
            values = self.evaluate(points).to(self.dtype)
            log_prob = bridge.log_prob(points)
        state = _State(bridge, beta, (*before, len(self.attempts)), levels, points, values, log_prob)
        train = layers[-1]
        self.attempts.append(
            BridgeLayer(
                beta,
                max(train.train.ranks),
                state.ess(beta),
                state.ess(1.0),
                train.info.status,
                self.num_evaluations - spent,
            )
        )
        return state


def _largest(holds: Callable[[float], bool], lowest: float) -> float:
    """The largest number in [lowest, 1] up to which something holds, by bisection of its logarithm."""
    if holds(1.0):
        return 1.0
    low, high = math.log(lowest), 0.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(math.exp(middle)) else (low, middle)
    return math.exp(low)
