"""What a flow is trained on: divergences from draws of its base, weighted likelihood, and the verdict on held-out draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from .flow import Flow

__all__ = ["Counted", "Loss", "Pool", "divergence", "likelihood", "reverse", "truncated_weights"]


LONGEST = 3.0  # pull of one draw, in medians over the batch


class Counted:
    """An unnormalised log-density whose every point is counted, in the dtype of the base.

    Args:
        log_density: ``(batch, d)`` to ``(batch,)``.
        budget: the most points to pay for.
        caller: the public callable, for messages.
        dtype, device: what it is called with.
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        *,
        budget: int | None,
        caller: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.log_density, self.budget, self.caller = log_density, budget, caller
        self.dtype, self.device = dtype, device
        self.num_evaluations = 0
        self._invalid = torch.zeros((), dtype=torch.long, device=device)  # summed there: no synchronisation

    @property
    def num_invalid(self) -> int:
        """NaN and +inf so far."""
        return int(self._invalid)

    def restore(self, num_evaluations: int, num_invalid: int) -> None:
        """Continue the account of an interrupted fit."""
        self.num_evaluations = num_evaluations
        self._invalid.fill_(num_invalid)

    def values(self, x: Tensor) -> Tensor:
        """Log-densities, shape ``(batch,)``; NaN and +inf are counted and become ``-inf``."""
        with torch.no_grad():
            return self._valid(self._call(x.detach().to(self.device, self.dtype)))

    def gradients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities and their gradients in the points; rows with anything that is not finite have value ``-inf``."""
        leaf = x.detach().to(self.device, self.dtype).requires_grad_()
        with torch.enable_grad():
            values = self._call(leaf)
            if not values.requires_grad:
                raise ValueError(
                    f"{self.caller}: expected a log_density that is differentiable; its values carry no gradient. "
                    'Compute with torch operations, or pass objective="forward".'
                )
            usable = torch.isfinite(values)
            (gradient,) = torch.autograd.grad(torch.where(usable, values, 0.0).sum(), leaf)
        valid = self._valid(values.detach())
        finite = torch.isfinite(gradient).all(-1)
        return torch.where(finite, valid, -torch.inf), torch.where(finite.unsqueeze(-1), gradient, 0.0)

    def differentiable(self, x: Tensor) -> bool:
        """Whether gradients come back; the points are paid for."""
        leaf = x.detach().to(self.device, self.dtype).requires_grad_()
        with torch.enable_grad():
            values = self._call(leaf)
            if not values.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        return gradient is not None

    def _call(self, x: Tensor) -> Tensor:
        if self.budget is not None and self.num_evaluations + len(x) > self.budget:
            raise BudgetExhausted(f"{self.caller}: {self.budget} evaluations do not cover another {len(x)}.")
        self.num_evaluations += len(x)
        try:
            values = self.log_density(x)
        except Exception as error:
            raise EvaluationError(
                f"{self.caller}: expected log_density to evaluate {tuple(x.shape)} points; it raised "
                f"{type(error).__name__}: {error}. Return nan or -inf where there is no density."
            ) from error
        if not isinstance(values, Tensor) or values.shape != x.shape[:1] or not values.is_floating_point():
            got = (tuple(values.shape), values.dtype) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{self.caller}: expected `log_density` to return floating-point values of shape ({len(x)},); got {got}. "
                "Sum over the last dimension."
            )
        return values.to(x)

    def _valid(self, values: Tensor) -> Tensor:
        bad = torch.isnan(values) | (values == torch.inf)
        self._invalid += bad.sum()
        return torch.where(bad, -torch.inf, values)


@dataclass(frozen=True)
class Pool:
    """Draws of the base with what of the base a reverse divergence needs: nothing has to go through it again.

    Attributes:
        z: draws, shape ``(N, d)``.
        log_prob: log q0 there, shape ``(N,)``.
        score: its gradient, shape ``(N, d)``, where a path gradient needs it.
        spread: variances of all draws, shape ``(d,)``.
        columns: log q0 coordinate by coordinate, shape ``(N, d)``, where these are independent.
    """

    z: Tensor
    log_prob: Tensor
    score: Tensor | None
    spread: Tensor
    columns: Tensor | None = None

    @classmethod
    def draw(cls, flow: Flow, size: int, generator: torch.Generator | None, *, score: bool, block: int = 8192) -> Pool:
        """``size`` draws."""
        z = flow.base_module.sample(torch.Size([size]), generator)
        values, scores, columns = [], [], []
        for part in z.split(block):
            leaf = part.clone().requires_grad_(score)
            with torch.set_grad_enabled(score):
                value = flow.base_module.log_prob(leaf)
            if score:
                # A flat base has a log-density that does not depend on the point.
                gradient = torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(leaf)
                scores.append(torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
            values.append(value.detach())
            with torch.no_grad():
                apart = flow.base_module.log_prob_columns(part) if score else None
            if apart is not None:
                columns.append(apart)
        spread = z.var(0, correction=0).clamp_min(torch.finfo(z.dtype).tiny)
        return cls(
            z, torch.cat(values), torch.cat(scores) if score else None, spread, torch.cat(columns) if columns else None
        )

    def __len__(self) -> int:
        return len(self.z)

    def rows(self, index: Tensor) -> Pool:
        """Some of the draws."""
        score = None if self.score is None else self.score[index]
        return Pool(self.z[index], self.log_prob[index], score, self.spread)

    def batch(self, size: int, generator: torch.Generator) -> Pool:
        """Some at random; of independent coordinates every one for itself, which makes new draws of old ones at no cost."""
        if self.columns is None or self.score is None:
            return self.rows(torch.randint(len(self), (size,), generator=generator, device=generator.device))
        index = torch.randint(len(self), (size, self.z.shape[1]), generator=generator, device=generator.device)
        z, score, columns = (values.gather(0, index) for values in (self.z, self.score, self.columns))
        return Pool(z, columns.sum(1), score, self.spread)


@dataclass(frozen=True)
class Loss:
    """What one step minimises.

    Attributes:
        surrogate: its gradient in the parameters is that of the objective.
        value: what to report, in nats; NaN where no point was usable. Not read back from the device here.
    """

    surrogate: Tensor
    value: Tensor


def truncated_weights(log_weights: Tensor) -> Tensor:
    r"""Self-normalised weights, none above :math:`\sqrt{N}` times the mean.

    References:
        Ionides: Truncated importance sampling (2008).

    >>> truncated_weights(torch.tensor([0.0, 0.0, -torch.inf]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    weights = torch.softmax(log_weights, 0).nan_to_num(0.0)
    weights = weights.clamp_max(1 / math.sqrt(len(weights)))
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def divergence(
    flow: Flow, target: Counted, batch: Pool, *, forward_share: float, beta: float = 1.0, path: bool = True
) -> Loss:
    r"""A mixture of the reverse and the forward divergence, both from draws :math:`x = F(z)` of a pool.

    With :math:`w = \tilde p / q` at the draws, both are path gradients of the same log-weights, differently weighted:

    .. math::
        \nabla \mathrm{KL}(q \Vert p) = -\mathrm{E}_q[\partial_x \log w \cdot \partial_\phi x], \qquad
        \nabla \mathrm{KL}(p \Vert q) = -\mathrm{E}_q[w \, \partial_x \log w \cdot \partial_\phi x]

    so a step costs one pass forward that carries the score of the base along, and one gradient of the target per point;
    the base is never evaluated. Both vanish draw by draw, not only on average, where :math:`q = p`.

    Args:
        flow: what is trained.
        target: log-densities with gradients.
        batch: draws, with scores for a path gradient.
        forward_share: weight of the forward divergence, in [0, 1].
        beta: inverse temperature of the target.
        path: drop the score of the flow's own parameters, whose mean is zero; without it there is no forward part.

    References:
        Vaitl, Winkler, Richter, Kessel: Fast and unified path gradient estimators for normalizing flows (2024).
        Roeder, Wu, Duvenaud: Sticking the landing (2017). Tucker, Lawson, Gu, Maddison: Doubly reparameterized gradient
        estimators (2019). Vaitl, Nicoli, Nakajima, Kessel: Gradients should stay on path (2022).
    """
    if path:
        assert batch.score is not None
        x, log_det, own = flow.carry(batch.z, batch.score)
    else:
        (x, log_det), own = flow(batch.z), batch.z.new_zeros(())
    values, gradient = target.gradients(x)
    good = torch.isfinite(values)
    log_weights = beta * values - batch.log_prob + log_det.detach()
    direction = beta * gradient
    # Where there is no density, points are pulled back to where they came from.
    direction = torch.where(good.unsqueeze(-1), direction, (batch.z - x.detach()) / batch.spread)
    share = torch.full_like(values, 1 / len(values))
    if path:
        direction = direction - torch.where(good.unsqueeze(-1), own, 0.0)
        direction = _shortened(direction, batch.spread.sqrt())
        weights = truncated_weights(log_weights)
        share = (1 - forward_share) * share + forward_share * weights * (1 - weights)
        surrogate = -(share * (direction * x).sum(-1)).sum()
    else:
        surrogate = -(share * (log_det * good + (direction * x).sum(-1))).sum()
    return Loss(surrogate, -torch.where(good, log_weights, 0.0).sum() / good.sum())


def _shortened(direction: Tensor, scale: Tensor) -> Tensor:
    """No row longer than a few times the median: a draw from the far tail of a poor base must not drown the others."""
    length = (direction * scale).norm(dim=-1, keepdim=True)
    longest = LONGEST * length.median()
    return direction * (longest / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp_max(1.0)


def likelihood(flow: Flow, x: Tensor, *, weights: Tensor | None = None, context: Tensor | None = None) -> Loss:
    r"""The negative log-likelihood :math:`-\sum_i w_i \log q(x_i \mid c_i)`, points of probability zero left out.

    Args:
        flow: what is trained, its base included where it has parameters.
        x: points, shape ``(batch, d)``.
        weights: that sum to one; equal ones by default.
        context: shape ``(batch, c)``.
    """
    values = flow.log_prob(x, context)
    good = torch.isfinite(values)
    share = torch.full_like(values, 1 / len(values)) if weights is None else weights
    value = -(share * torch.where(good, values, 0.0)).sum()
    return Loss(value, value.detach() / good.any())


def reverse(flow: Flow, target: Counted, size: int, generator: torch.Generator, *, beta: float = 1.0) -> Loss:
    """The reverse divergence through reparameterised draws of a base that is trained too.

    Args:
        flow: what is trained, cores of the base included.
        target: log-densities with gradients.
        size: number of draws.
        generator: source of them.
        beta: inverse temperature of the target.
    """
    z = flow.base_module.rsample(torch.Size([size]), generator)
    x, log_det = flow(z)
    log_q = flow.base_module.log_prob(z) - log_det
    values, gradient = target.gradients(x)
    good = torch.isfinite(values) & torch.isfinite(log_q)
    terms = torch.where(good, log_q, 0.0) - beta * torch.where(good, (gradient * x).sum(-1), 0.0)
    value = torch.where(good, log_q.detach() - beta * values, 0.0).sum() / good.sum()
    return Loss(terms.sum() / len(terms), value)
