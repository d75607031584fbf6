"""Where columns of many may end: what is narrow in each of them must not be spread out over lines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .stretch import tail_exponent

__all__ = ["ends_of_columns"]

NORMAL = 2.576  # quantile of 0.995
BETWEEN = (1.645, 1.96)  # normal quantiles between one deviation and that
HEAVY = 1.15  # times the normal ratio of the outer quantile to one deviation, from which on a side may have a tail
FAR = 7.0  # deviations at which a normal column ends
AS_FAR_AGAIN = 2.0
FEW = 0.25  # of the columns, that may have tails while the others end
NOTHING = 30.0  # nats, by which the log-density falls off from the farthest draw to twice as far where no tail goes on


def ends_of_columns(
    log_density: Callable[[Tensor], Tensor], points: Tensor, reach: Tensor, free: Tensor
) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of every column, as far as there is any mass; infinite where a tail may go on for long.

    A side that is no heavier than normal ends as a normal one would. One that is heavier has a tail, or a second mode that few
    draws are in. The farthest draw can tell: from the far side of a mode the density falls off at once. From the end of a power law,
    an exponential tail or a scale mixture, whose farthest draw has a large scale of its own, it does not.

    Args:
        log_density: of the points, shape (batch, m) to (batch,).
        points: draws, shape (N, m).
        reach: more points that no column ends before, shape (K, m).
        free: columns in question, shape (m,), bool; the others do not end.

    Returns:
        Two tensors of shape (m,).

    >>> normal = torch.special.ndtri(torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64))
    >>> lower, upper = ends_of_columns(lambda t: -0.5 * t.square().sum(1), normal[:, None], normal[:0, None], torch.tensor([True]))
    >>> round(float(lower)), round(float(upper))
    (-7, 7)
    """
    middle = points.median(0).values
    inner, between, outer = _quantiles(points - middle)
    heavy = (tail_exponent(points)[2] > 0) & (outer > HEAVY * NORMAL * inner) & free
    if bool(heavy.any()):
        heavy = _goes_on(log_density, points, middle, heavy)
    wide = (outer - inner) / (NORMAL - 1)
    # Where a second mode lies beyond one of them, its own width counts; a quarter at least, since draws may be repeated.
    narrow = torch.stack([(outer - q) / (NORMAL - z) for z, q in zip(BETWEEN, between, strict=True)]).amin(0)
    away = torch.cat([points, reach]) - middle
    last = torch.stack([-away.amin(0), away.amax(0)])
    ends = torch.maximum(outer + (FAR - NORMAL) * torch.minimum(wide, narrow.clamp_min(0.25 * wide)), last)
    tailed = heavy.any(0)
    # A tail that the quantiles of a few columns do not show may be there all the same where others have one.
    if int(tailed.sum()) > FEW * int(free.sum()):
        tailed = free
    ends = torch.where(free & ~tailed, ends, torch.inf)
    return middle - ends[0], middle + ends[1]


def _quantiles(away: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances, on both sides, of the inner quantile, of some further out, and of the outer one: (2, m), (K, 2, m), (2, m)."""
    levels = torch.special.ndtr(away.new_tensor([1.0, *BETWEEN, NORMAL]))
    q = torch.stack([-torch.quantile(away, 1 - levels, dim=0), torch.quantile(away, levels, dim=0)], 1)
    return q[0], q[1:-1], q[-1]


def _goes_on(log_density: Callable[[Tensor], Tensor], points: Tensor, middle: Tensor, sides: Tensor) -> Tensor:
    """Of those sides, shape (2, m), the ones where as far again there still is some density."""
    found = sides.clone()
    for side, farthest in enumerate((points.argmin(0), points.argmax(0))):
        columns = sides[side].nonzero()[:, 0]
        if not len(columns):
            continue
        here = points[farthest[columns]]
        at = torch.arange(len(columns)), columns
        there = here.clone()
        there[at] = (middle + AS_FAR_AGAIN * (here - middle))[at]
        found[side, columns] = ~(log_density(here) - log_density(there) > NOTHING)
    return found
