"""Expectations from weighted draws, each with its standard error and with names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Estimate",
    "circular_moments",
    "evaluated",
    "weighted_covariance",
    "weighted_expectation",
    "weighted_quantile",
    "weighted_variance",
]

Places = Mapping[str, int | slice]
"""Where a name lies along the last dimension."""


class Estimate(Tensor):
    """A tensor that knows its standard error, and whose last dimension answers to names.

    Everything computed from it is a plain tensor. Make one with `Estimate.of`.

    Attributes:
        standard_error: of the same shape.

    >>> mean = Estimate.of(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.2, 0.3]), {"tau": 0, "theta": slice(1, 3)})
    >>> mean["theta"].standard_error
    tensor([0.2000, 0.3000])
    >>> mean + 1
    tensor([2., 3., 4.])
    """

    standard_error: Tensor
    _places: Places
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(value: Tensor, standard_error: Tensor, places: Places | None = None) -> Estimate:
        """Put a value, its error and its names together.

        Args:
            value: any shape.
            standard_error: the same shape.
            places: name to position, or slice, along the last dimension.
        """
        new = value.detach().as_subclass(Estimate)
        new.standard_error = standard_error.detach()
        new._places = places or {}
        return new

    def __deepcopy__(self, memo: Any) -> Estimate:
        return Estimate.of(self.as_subclass(Tensor).clone(), self.standard_error.clone(), self._places)

    def __getitem__(self, key: Any) -> Any:
        """Entries by name (with their error), or anything that a tensor is indexed by (without)."""
        names = key if isinstance(key, tuple) else (key,)
        if not names or not all(isinstance(name, str) for name in names):
            return super().__getitem__(key)
        for name in names:
            if name not in self._places:
                raise KeyError(f"expected one of {', '.join(self._places)}; got {name!r}")
        index = (..., *(self._places[name] for name in names))
        return Estimate.of(self.as_subclass(Tensor)[index], self.standard_error[index])


def weighted_expectation(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Self-normalised mean :math:`\mu = \sum_s w_s f_s` and its standard error :math:`(\sum_s w_s^2 (f_s - \mu)^2)^{1/2}`.

    Args:
        values: shape (S, ...).
        weights: shape (S,), summing to one.

    References:
        Owen, "Monte Carlo theory, methods and examples", chapter 9 (2013).
    """
    w = weights.to(values.dtype)
    mean = torch.tensordot(w, values, 1)
    return mean, torch.tensordot(w.square(), (values - mean).square(), 1).sqrt()


def weighted_variance(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Variances of the columns of x, shape (S, D), and their standard errors."""
    mean, _ = weighted_expectation(x, weights)
    return weighted_expectation((x - mean).square(), weights)


def weighted_covariance(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance matrix of the columns of x, shape (S, D), and standard errors. Cost O(S D²), memory O(S D + D²)."""
    w = weights.to(x.dtype)[:, None]
    c = x - weighted_expectation(x, weights)[0]
    value = c.mT @ (w * c)
    # Σ w² (c_i c_j − C_ij)², multiplied out, so that no S × D × D array is made.
    spread = c.square().mT @ (w.square() * c.square()) - 2 * value * (c.mT @ (w.square() * c))
    return value, (spread + value.square() * w.square().sum()).clamp_min(0).sqrt()


def weighted_quantile(x: Tensor, weights: Tensor, levels: Tensor, discrete: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of the columns of x, and Woodruff's standard errors.

    Args:
        x: shape (S, D).
        weights: shape (S,), summing to one.
        levels: shape (Q,), in [0, 1].
        discrete: which columns take the smallest value with at least that mass, instead of interpolating; shape (D,).

    Returns:
        Two tensors of shape (Q, D).

    References:
        Woodruff, "Confidence intervals for medians and other position measures" (1952).
    """
    ordered, places = x.mT.contiguous().sort(-1)
    w = weights.to(x.dtype)[places]
    total = w.cumsum(-1)
    levels = levels.to(x)
    value = _inverse(ordered, w, total, levels.expand(len(ordered), -1).contiguous(), discrete)
    # Σ w² (1{x ≤ value} − level)², the variance of the mass below, from one cumulative sum.
    squares = w.square().cumsum(-1)
    count = torch.searchsorted(ordered, value.contiguous(), right=True)
    below = torch.where(count > 0, squares.gather(-1, (count - 1).clamp_min(0)), 0.0)
    error = (below * (1 - levels).square() + (squares[:, -1:] - below) * levels.square()).clamp_min(0).sqrt()
    lower, upper = (_inverse(ordered, w, total, (levels + s * error).clamp(0, 1), discrete) for s in (-1, 1))
    return value.mT, (upper - lower).mT / 2


def _inverse(ordered: Tensor, w: Tensor, total: Tensor, levels: Tensor, discrete: Tensor) -> Tensor:
    """Values at levels (D, Q) of ascending points (D, S) with weights and cumulative weights."""
    last = ordered.shape[-1] - 1
    step = torch.searchsorted(total, levels * total[:, -1:]).clamp(max=last)
    centre = total - w / 2
    right = torch.searchsorted(centre, levels).clamp(1, max(1, last)) if last else torch.zeros_like(step)
    left = (right - 1).clamp_min(0)
    a, b = centre.gather(-1, left), centre.gather(-1, right)
    part = ((levels - a) / (b - a).clamp_min(torch.finfo(w.dtype).tiny)).clamp(0, 1)
    between = torch.lerp(ordered.gather(-1, left), ordered.gather(-1, right), part)
    return torch.where(discrete[:, None], ordered.gather(-1, step), between)


def circular_moments(x: Tensor, weights: Tensor, lower: float, upper: float) -> tuple[float, float]:
    r"""Mean direction and circular standard deviation :math:`\sqrt{-2\log R}` of one coordinate on [lower, upper).

    Args:
        x: shape (S,).
        weights: shape (S,), summing to one.
        lower, upper: one turn.

    References:
        Mardia and Jupp, "Directional statistics" (2000).

    >>> x = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    >>> mean, sd = circular_moments(x, torch.full((2,), 0.5), -math.pi, math.pi)
    >>> round(abs(mean), 4), round(sd, 2)
    (3.1416, 0.14)
    """
    turn = 2 * math.pi / (upper - lower)
    angle, w = turn * (x - lower), weights.to(x.dtype)
    c, s = float((w * angle.cos()).sum()), float((w * angle.sin()).sum())
    length = min(1.0, math.hypot(c, s))
    sd = math.sqrt(-2 * math.log(length)) / turn if length > 0 else math.inf
    return lower + (math.atan2(s, c) % (2 * math.pi)) / turn, sd


def evaluated(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The user's function on the draws, one result per row.

    Raises:
        ValueError: it returns something else.
    """
    with torch.no_grad():
        values = function(x)
    if not isinstance(values, Tensor) or values.shape[:1] != x.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"expectation: expected `function` to return a tensor of shape ({len(x)}, ...); got {got}. "
            "Return one value per row of x."
        )
    return values if values.is_floating_point() else values.to(x.dtype)
