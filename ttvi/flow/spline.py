"""Monotone rational-quadratic splines, on a box of the line with identity tails or around a circle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .coupling import Coupling
from .elementwise import Elementwise

__all__ = ["Spline", "SplineCoupling", "unit_spline"]

MIN_SIZE = 1e-3  # smallest bin, as a share of the box
MAX_LOG_SLOPE = 5.0  # slopes at the knots lie within a factor e⁵ of one


def unit_spline(
    t: Tensor, sizes: Tensor, log_slopes: Tensor, *, inverse: bool = False, min_size: float = MIN_SIZE
) -> tuple[Tensor, Tensor]:
    """What a monotone rational-quadratic spline of the unit interval adds to ``t``, and its log-derivative.

    With s = h/w the slope of a bin, d₀ and d₁ those at its ends, ξ the position in it and D = s + (d₀ + d₁ − 2s)·ξ(1−ξ),

        f(t) − t = (y₀ − x₀) + (h − w)·ξ + h·ξ(1−ξ)·[(d₀ − s) − (d₀ + d₁ − 2s)·ξ] / D,
        f'(t) = s²·[s + (d₁ − s)·ξ² + (d₀ − s)·(1−ξ)²] / D².

    Written so, zero parameters give exactly 0 and 1. Bins are few: a comparison with every knot finds the right one.
    They come first in the shapes, so that every operation runs along the batch.

    Args:
        t: points in [0, 1], shape ``(...)``.
        sizes: unnormalised log widths and heights of the bins, shape ``(2, bins, ...)``.
        log_slopes: log of the slope at every knot, both ends included, before it is limited to ±5, shape
            ``(bins + 1, ...)``.
        inverse: whether to apply the inverse spline.
        min_size: smallest width or height of a bin.

    Returns:
        difference: shape ``(...)``.
        log-derivative: shape ``(...)``.

    References:
        Durkan, Bekasov, Murray, Papamakarios: Neural spline flows (2019)

    >>> unit_spline(torch.tensor([0.3]), torch.zeros(2, 4, 1), torch.zeros(5, 1))
    (tensor([0.]), tensor([0.]))
    """
    x0, w, lead, h, d0, d1 = _bin(t, sizes, log_slopes, inverse, min_size)
    s = h / w
    rise = d0 - s
    excess = rise + (d1 - s)
    if inverse:
        theta = (t - (x0 + lead)) / h
        bend = excess * theta
        b = d0 - bend
        q = s * theta
        # The root is that of a square where the spline is monotone; the floor only stops the rounding below zero.
        xi = 2 * q / (b + (b * b - 4 * q * (rise - bend)).clamp_min(1e-30).sqrt())
    else:
        xi = (t - x0) / w
    rest = 1 - xi
    mixed = xi * rest
    below = torch.addcmul(s, excess, mixed)
    if inverse:
        difference = torch.addcmul(torch.addcmul(-lead, w - h, theta), w, xi - theta)
    else:
        ahead = torch.addcmul(lead, h - w, xi)
        difference = ahead + h * mixed * torch.addcmul(rise, excess, xi, value=-1) / below
    above = torch.addcmul(torch.addcmul(s, d1 - s, xi * xi), rise, rest * rest)
    ratio = s / below
    log_slope = (ratio * ratio * above).log()
    return difference, -log_slope if inverse else log_slope


def _bin(
    t: Tensor, sizes: Tensor, log_slopes: Tensor, inverse: bool, min_size: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x₀, w, y₀ − x₀, h, d₀, d₁ of the bin that holds each point."""
    bins = sizes.shape[1]
    sizes = torch.add(min_size, torch.softmax(sizes, 1), alpha=1 - bins * min_size)
    # A product with a triangle of ones sums up the bins before each; y₀ − x₀ is summed by itself, to vanish exactly.
    before = torch.ones(bins, bins, dtype=t.dtype, device=t.device).tril(-1)
    pair = torch.stack([sizes[0], sizes[1] - sizes[0]])
    starts = (before @ pair.reshape(2, bins, -1)).reshape(sizes.shape)
    knots = starts[0, 1:].detach()
    if inverse:
        knots = knots + starts[1, 1:].detach()
    index = (t.detach() >= knots).sum(0, keepdim=True)
    x0, lead, w, h = torch.cat([starts, sizes]).gather(1, index.expand(4, 1, *t.shape)).squeeze(1).unbind(0)
    log_d = log_slopes.gather(0, torch.cat([index, index + 1]))
    d0, d1 = ((log_d / MAX_LOG_SLOPE).tanh() * MAX_LOG_SLOPE).exp().unbind(0)
    return x0, w, lead, h, d0, d1


class Spline(Elementwise):
    """A spline per column: on ``loc ± bound·scale`` or an interval, with identity tails, or around a circle and rotated.

    Args:
        kinds: parsed kinds; none of them discrete.
        loc: middle of the box of each real column.
        scale: unit of the box of each real column.
        bins: pieces of each spline.
        bound: half-width of the box in units of ``scale``.

    References:
        Durkan, Bekasov, Murray, Papamakarios: Neural spline flows (2019)
        Rezende et al.: Normalizing flows on tori and spheres (2020)
    """

    circle: Tensor

    def __init__(
        self,
        kinds: Sequence[tuple[str, float, float]],
        loc: Tensor,
        scale: Tensor,
        *,
        bins: int = 8,
        bound: float = 5.0,
    ) -> None:
        if int(bins) != bins or not 2 <= bins <= 128 or not 0 < bound < float("inf"):
            raise ValueError(
                f"SplineCoupling: expected 2 to 128 `bins` and a positive `bound`; got {bins} and {bound}. Take 8 and 5.0."
            )
        lower, length = loc - bound * scale, 2 * bound * scale
        for k, (name, start, stop) in enumerate(kinds):
            if name != "real":
                lower[k], length[k] = start, stop - start
        # In the base class's words: a column's origin and its unit are those of its box.
        super().__init__(lower, length)
        self.bins = int(bins)
        circle = [name == "circle" for name, _, _ in kinds]
        self.any_circle, self.all_circle = any(circle), all(circle)
        # Line: slopes at the inner knots. Circle: at every knot but the last, which is the first, and a rotation.
        self.num_parameters = 3 * self.bins + (1 if self.any_circle else -1)
        self.register_buffer("circle", torch.tensor(circle), persistent=False)

    def owners(self) -> Tensor:
        return torch.arange(self.size).repeat(self.num_parameters)

    def columns(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = self._forward(z, parameters)
        return x, log_slope.mT.reshape(z.shape)

    def forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slope = self._forward(z, parameters)
        return x, log_slope.sum(0).reshape(z.shape[:-1])

    def _forward(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        sizes, log_slopes, turn = self._split(parameters)
        if turn is None:
            return self._move(z, sizes, log_slopes, inverse=False)
        x, log_slope = self._move(self._wrap(z), sizes, log_slopes, inverse=False)
        return self._wrap(torch.addcmul(x, self.scale, turn.mT.reshape(x.shape))), log_slope

    def inverse(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        sizes, log_slopes, turn = self._split(parameters)
        if turn is not None:
            x = self._wrap(torch.addcmul(self._wrap(x), self.scale, turn.mT.reshape(x.shape), value=-1))
        z, log_slope = self._move(x, sizes, log_slopes, inverse=True)
        return z, log_slope.sum(0).reshape(x.shape[:-1])

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logarithms of bin sizes, logarithms of slopes at all knots, and the rotation as a share of the circle.

        Shapes ``(2, bins, size, batch)``, ``(bins + 1, size, batch)`` and ``(size, batch)``.
        """
        parts = parameters.reshape(-1, self.num_parameters * self.size).mT.contiguous()
        parts = parts.unflatten(0, (self.num_parameters, self.size))
        sizes = parts[: 2 * self.bins].unflatten(0, (2, self.bins))
        if not self.any_circle:
            end = parts.new_zeros(1, *parts.shape[1:])
            return sizes, torch.cat([end, parts[2 * self.bins :], end]), None
        seam, turn = parts[2 * self.bins : 2 * self.bins + 1], parts[-1]
        if not self.all_circle:
            on_circle = self.circle.to(seam.dtype).unsqueeze(-1)
            seam, turn = seam * on_circle, turn * on_circle
        return sizes, torch.cat([seam, parts[2 * self.bins + 1 : 3 * self.bins], seam]), turn

    def _move(self, z: Tensor, sizes: Tensor, log_slopes: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Image, and log-derivative of every column, shape ``(size, batch)``."""
        t = ((z - self.loc) / self.scale).reshape(-1, self.size).mT.contiguous()
        inner = t.clamp(0, 1)
        difference, log_slope = unit_spline(inner, sizes, log_slopes, inverse=inverse)
        # NaN is neither below nor above, so that it counts as inside and stays NaN.
        outside = (t < 0) | (t > 1)
        difference = difference.masked_fill(outside, 0.0)
        return torch.addcmul(z, self.scale, difference.mT.reshape(z.shape)), log_slope.masked_fill(outside, 0.0)

    def _wrap(self, z: Tensor) -> Tensor:
        """Circles back into their period; what lies there already keeps every bit."""
        t = ((z - self.loc) / self.scale).detach()
        turns = torch.where(self.circle & ((t < 0) | (t > 1)), t.floor(), 0.0)
        return torch.addcmul(z, self.scale, turns, value=-1)


class SplineCoupling(Coupling):
    """Monotone rational-quadratic splines; the only coupling that also moves intervals and circles. Arguments as in `Coupling`.

    Args:
        dim: number of coordinates.
        bins: pieces of each spline.
        bound: half-width of the box, in units of ``scale`` around ``loc``; outside it the map is the identity.
        arguments: as in `Coupling`.

    References:
        Durkan, Bekasov, Murray, Papamakarios: Neural spline flows (2019)
        Rezende et al.: Normalizing flows on tori and spheres (2020)

    >>> angles = SplineCoupling(2, kinds=[("circle", 0.0, 1.0)] * 2)
    >>> angles(torch.tensor([0.25, 0.5], dtype=torch.float64))[0].tolist()
    [0.25, 0.5]
    """

    movable = ("real", "interval", "circle")

    def __init__(self, dim: int, *, bins: int = 8, bound: float = 5.0, **arguments: Any) -> None:
        super().__init__(dim, bins=bins, bound=bound, **arguments)

    def _elementwise(
        self, kinds: list[tuple[str, float, float]], loc: Tensor, scale: Tensor, **options: Any
    ) -> Elementwise:
        return Spline(kinds, loc, scale, **options)
