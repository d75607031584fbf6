"""The unit interval and the line, by a map that is straight in the middle and bends only near the ends."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["FIRST_SHARPNESS", "SHARPNESS", "from_line", "to_line"]

SHARPNESS = 120.0
"""A logistic map would bend a parabola inside the interval; this one leaves it as it is from 0.03 to 0.97."""
FIRST_SHARPNESS = 30.0
"""Of records that do not name theirs."""


def from_line(t: Tensor) -> tuple[Tensor, Tensor]:
    r"""The line to the unit interval, :math:`u = [\mathrm{softplus}(kt) - \mathrm{softplus}(k(t-1))]/k`.

    Args:
        t: any shape.

    Returns:
        ``u`` and ``log |du/dt|``, both of the shape of ``t``.

    >>> u, log_slope = from_line(torch.tensor([0.5, 0.98], dtype=torch.float64))
    >>> [round(float(v), 4) for v in u], round(float(log_slope[1]), 4)
    ([0.5, 0.9793], -0.0868)
    """
    k = SHARPNESS
    near = torch.where(t <= 0.5, t, 1 - t)  # the map is symmetric; from the nearer end it loses no digits
    low = (logsigmoid(k * (1 - near)) - logsigmoid(-k * near)) / k  # torch's own softplus is rounded above 20
    low = low.clamp_min(torch.finfo(t.dtype).tiny)
    u = torch.where(t <= 0.5, low, 1 - low)
    return u, logsigmoid(k * t) + logsigmoid(k * (1 - t)) + math.log1p(-math.exp(-k))


def to_line(u: Tensor) -> Tensor:
    """The inverse of :func:`from_line`; an end of the interval counts as the number next to it.

    >>> t = to_line(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    >>> bool(torch.isfinite(t).all()), round(float(from_line(t[1])[0]), 6)
    (True, 0.25)
    """
    k = SHARPNESS
    inside = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)
    # log(expm1(ku)) = ku + log(1 - exp(-ku)), and the distance from 1 keeps its digits.
    return inside + (torch.log(-torch.expm1(-k * inside)) - torch.log(-torch.expm1(-k * (1 - inside)))) / k
