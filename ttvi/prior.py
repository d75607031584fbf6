"""A prior made of torch or frozen SciPy distributions: its support, its draws and its log-density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, VonMises, constraints
from torch.distributions.constraints import Constraint, MixtureSameFamilyConstraint

from .constraints import circular

__all__ = ["Prior"]

NEGLIGIBLE = 1e-14  # probability beyond which an endless count is cut off
_STEP = 6e-6  # cube root of the float64 precision: the best relative step of a central difference


class Prior:
    """Independent entries, each a torch distribution or a frozen SciPy distribution.

    Args:
        entries: a list of distributions, or a dict of them by name. A batch of distributions is a block.

    Attributes:
        support: what :meth:`Support.parse` reads. An angle (von Mises) lives on a circle; a count without an upper bound is
            cut off where ``1e-14`` of its probability is left.
        dim: number of entries of x.

    Raises:
        TypeError: an entry is no such distribution.
        ValueError: an entry has a support that ttvi cannot handle.

    >>> prior = Prior({"tau": torch.distributions.HalfCauchy(5.0), "theta": torch.distributions.Normal(torch.zeros(8), 1.0)})
    >>> prior.dim
    9
    >>> prior.sample(3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 9])
    """

    def __init__(self, entries: Sequence[Any] | Mapping[str, Any]) -> None:
        named = isinstance(entries, Mapping)
        if not isinstance(entries, Mapping | Sequence) or not len(entries):
            raise TypeError(
                f"from_prior: expected a list or a dict of distributions; got {type(entries).__name__}. E.g. [Normal(0, 1)]."
            )
        items = entries.items() if isinstance(entries, Mapping) else ((f"prior[{i}]", d) for i, d in enumerate(entries))
        self._entries = [_entry(distribution, str(name)) for name, distribution in items]
        supports = [e.constraint if e.size is None else (e.constraint, e.size) for e in self._entries]
        self.support: Any = dict(zip(entries, supports)) if named else supports
        self.dim = sum(e.width for e in self._entries)

    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``(count, dim)``, float64."""
        seeds = torch.randint(2**62, (len(self._entries),), generator=generator, device=_device(generator)).tolist()
        columns = [entry.sample(count, seed).reshape(count, -1) for entry, seed in zip(self._entries, seeds)]
        return torch.cat(columns, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised log-density: shape ``(..., dim)`` to ``(...)``; -inf outside the support."""
        at, total = 0, x.new_zeros(x.shape[:-1])
        for entry in self._entries:
            total = total + entry.log_prob(x[..., at : at + entry.width])
            at += entry.width
        return total


class _Torch:
    """An entry that is a torch distribution."""

    def __init__(self, distribution: Distribution, name: str) -> None:
        self._shape = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
        self._batch_dims = len(distribution.batch_shape)
        self.width = math.prod(self._shape)
        self.constraint, self.size = self._support(distribution, name)
        self._distribution = distribution
        self._inside = self.sample(1, 0)[0]

    def _support(self, distribution: Distribution, name: str) -> tuple[Constraint, int | None]:
        inner, constraint = distribution, distribution.support
        while isinstance(inner, Independent):
            inner = inner.base_dist
        while isinstance(constraint, constraints.independent | MixtureSameFamilyConstraint):
            constraint = constraint.base_constraint
        if isinstance(inner, VonMises):
            constraint = circular()
        if constraint is None or (constraint.event_dim and self._batch_dims):
            raise ValueError(
                f"from_prior: expected one vector-valued distribution in `{name}`; got {distribution}. Give each its own entry."
            )
        if constraint.event_dim:
            return constraint, self._shape[-1]
        return constraint, self.width if self._shape else None

    def sample(self, count: int, seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # torch distributions know the global generator only
            torch.manual_seed(seed)
            draws = self._distribution.sample((count,)).double()
        if self.constraint is constraints.simplex:  # single precision would leave the support of double precision
            draws = draws / draws.sum(-1, keepdim=True)
        elif self.constraint is constraints.corr_cholesky:
            draws = draws / draws.norm(dim=-1, keepdim=True)
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        inner = x.reshape(x.shape[:-1] + self._shape)
        inside = self.constraint.check(inner)
        joint = self.constraint.event_dim
        # Outside the support the density is zero; torch would raise there, so it is asked about a point inside.
        safe = self._inside.to(x.device, x.dtype)
        values = self._distribution.log_prob(torch.where(inside[(...,) + (None,) * joint], inner, safe))
        inside = inside.reshape(x.shape[:-1] + (-1,)).all(-1)
        values = values.sum(tuple(range(values.dim() - self._batch_dims, values.dim()))) if self._batch_dims else values
        return torch.where(inside, values, -torch.inf)


class _SciPy:
    """An entry that is a frozen distribution of SciPy; derivatives are central differences of its log-density."""

    def __init__(self, distribution: Any, name: str) -> None:
        self._distribution = distribution
        self._discrete = hasattr(distribution, "logpmf")
        lower, upper = (np.asarray(end, dtype=float) for end in distribution.support())
        self._shape = lower.shape
        self.width = math.prod(self._shape)
        self.size = self.width if self._shape else None
        self.constraint = self._support(lower, upper, name)

    def _support(self, lower: np.ndarray, upper: np.ndarray, name: str) -> Constraint:
        if self._discrete:
            lower = np.where(np.isfinite(lower), lower, self._distribution.ppf(NEGLIGIBLE))
            upper = np.where(np.isfinite(upper), upper, self._distribution.isf(NEGLIGIBLE))
            return constraints.integer_interval(_bound(lower), _bound(upper))
        if self._distribution.dist.name == "vonmises":
            return circular()
        open_below, open_above = np.isinf(lower), np.isinf(upper)
        if open_below.any() != open_below.all() or open_above.any() != open_above.all():
            raise ValueError(
                f"from_prior: expected one kind of support in `{name}`; got several. Give each its own entry."
            )
        if open_below.all():
            return constraints.real if open_above.all() else constraints.less_than(_bound(upper))
        return (
            constraints.greater_than(_bound(lower))
            if open_above.all()
            else constraints.interval(_bound(lower), _bound(upper))
        )

    def sample(self, count: int, seed: int) -> Tensor:
        draws = self._distribution.rvs(size=(count, *self._shape), random_state=np.random.default_rng(seed))
        draws = torch.from_numpy(np.asarray(draws, dtype=float))
        if isinstance(self.constraint, circular):
            draws = torch.remainder(draws + math.pi, 2 * math.pi) - math.pi
        return draws

    def log_prob(self, x: Tensor) -> Tensor:
        values = _Differences.apply(x.reshape(x.shape[:-1] + self._shape), self._evaluate)
        return values.reshape(x.shape).sum(-1)

    def _evaluate(self, x: Tensor) -> Tensor:
        function = self._distribution.logpmf if self._discrete else self._distribution.logpdf
        return torch.as_tensor(function(x.detach().cpu().double().numpy())).to(x.device, x.dtype)


class _Differences(torch.autograd.Function):
    """An elementwise function with derivatives by central differences, zero where they are not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        step = _STEP * x.abs().clamp(min=1.0)
        above, below = x + step, x - step
        slope = (ctx.function(above) - ctx.function(below)) / (above - below)
        return upstream[0] * slope.nan_to_num(0.0, 0.0, 0.0), None


def _entry(distribution: Any, name: str) -> _Torch | _SciPy:
    if isinstance(distribution, Distribution):
        return _Torch(distribution, name)
    if hasattr(distribution, "dist") and (hasattr(distribution, "logpdf") or hasattr(distribution, "logpmf")):
        return _SciPy(distribution, name)
    raise TypeError(
        f"from_prior: expected a torch or a frozen scipy.stats distribution for `{name}`; got {type(distribution).__name__}. "
        "E.g. torch.distributions.Normal(0, 1)."
    )


def _bound(values: np.ndarray) -> Any:
    return torch.from_numpy(np.array(values, dtype=float)) if values.shape else float(values)


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
