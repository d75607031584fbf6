"""Many local maxima at once: limited-memory BFGS on a batch of starts, and curvature at what was found."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ascend", "curvature", "distinct", "newton"]

HISTORY = 10
HALVINGS = 12
ARMIJO = 1e-4
FLAT = 1e-7  # relative gain below which a row has arrived
NEWTON_STEPS = 3

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def ascend(function: ValueAndGradient, starts: Tensor, *, max_steps: int = 150) -> tuple[Tensor, Tensor]:
    """Local maxima of a log-density from many starts.

    One evaluation with gradient per row, step and halving; rows that have arrived cost nothing more.

    Args:
        function: (batch, m) to values (batch,) and gradients (batch, m).
        starts: shape (S, m).
        max_steps: the most steps of any row.

    Returns:
        Points (S, m) and values (S,), ``-inf`` for a start without density.

    References:
        Nocedal, Updating quasi-Newton matrices with limited storage (1980).

    >>> points, values = ascend(lambda x: (-x.square().sum(-1), -2 * x), torch.ones(3, 2))
    >>> bool(points.abs().max() < 1e-4)
    True
    """
    points = starts.clone()
    values, slopes = function(points)
    steps = torch.zeros(HISTORY, *points.shape, dtype=points.dtype)
    changes = torch.zeros_like(steps)
    active = torch.isfinite(values) & (slopes.norm(dim=1) > 0)
    quiet = torch.zeros(len(points), dtype=torch.long)
    for iteration in range(max_steps):
        if not bool(active.any()):
            break
        rows = active.nonzero()[:, 0]
        direction = _two_loops(slopes[rows], steps[:, rows], changes[:, rows], iteration)
        uphill = (direction * slopes[rows]).sum(1)
        lost = ~(uphill > 0)
        direction[lost] = slopes[rows][lost] / slopes[rows][lost].norm(dim=1, keepdim=True)
        uphill = (direction * slopes[rows]).sum(1)
        moved, new_values, new_slopes, found = _line_search(function, points[rows], values[rows], direction, uphill)
        gain = new_values - values[rows]
        slot = iteration % HISTORY
        steps[slot, rows] = torch.where(found[:, None], moved - points[rows], 0.0)
        changes[slot, rows] = torch.where(found[:, None], slopes[rows] - new_slopes, 0.0)
        points[rows] = torch.where(found[:, None], moved, points[rows])
        slopes[rows] = torch.where(found[:, None], new_slopes, slopes[rows])
        values[rows] = torch.where(found, new_values, values[rows])
        quiet[rows] = torch.where(gain < FLAT * (1 + values[rows].abs()), quiet[rows] + 1, 0)
        # A direction that leads nowhere may be the fault of its history: once more along the gradient.
        stuck = rows[~found]
        again = changes[:, stuck].ne(0).any(-1).any(0)
        steps[:, stuck], changes[:, stuck], quiet[stuck] = 0.0, 0.0, 0
        active[rows] = quiet[rows] < 2
        active[stuck] = again
    return points, values


def _two_loops(slopes: Tensor, steps: Tensor, changes: Tensor, iteration: int) -> Tensor:
    """The quasi-Newton direction of every row, newest pair last in time."""
    order = [(iteration - 1 - k) % HISTORY for k in range(min(iteration, HISTORY))]
    curved = (steps * changes).sum(-1)
    usable = curved > 1e-12 * changes.square().sum(-1)
    rho = torch.where(usable, 1 / torch.where(usable, curved, 1.0), 0.0)
    direction = slopes.clone()
    alphas = {}
    for k in order:
        alphas[k] = rho[k] * (steps[k] * direction).sum(-1)
        direction -= alphas[k][:, None] * changes[k]
    scale = 1 / slopes.norm(dim=1).clamp_min(1.0)
    for k in reversed(order):  # the newest usable pair sets the scale
        scale = torch.where(usable[k], curved[k] / changes[k].square().sum(-1).clamp_min(1e-300), scale)
    direction *= scale[:, None]
    for k in reversed(order):
        beta = rho[k] * (changes[k] * direction).sum(-1)
        direction += (alphas[k] - beta)[:, None] * steps[k]
    return direction


def _line_search(
    function: ValueAndGradient, points: Tensor, values: Tensor, direction: Tensor, uphill: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Armijo backtracking of all rows together: points, values, gradients, and which rows moved."""
    length = torch.ones_like(values)
    moved, new_values, new_slopes = points.clone(), values.clone(), torch.zeros_like(points)
    waiting = torch.arange(len(points))
    for _ in range(HALVINGS):
        trial = points[waiting] + length[waiting, None] * direction[waiting]
        trial_values, trial_slopes = function(trial)
        good = trial_values >= values[waiting] + ARMIJO * length[waiting] * uphill[waiting]
        done = waiting[good]
        moved[done], new_values[done], new_slopes[done] = trial[good], trial_values[good], trial_slopes[good]
        waiting = waiting[~good]
        if not len(waiting):
            break
        length[waiting] *= 0.3
    found = torch.ones(len(points), dtype=torch.bool)
    found[waiting] = False
    return moved, new_values, new_slopes, found


def curvature(function: ValueAndGradient, points: Tensor, scale: Tensor) -> Tensor:
    """Negative Hessians at points, by central differences of gradients: 2 m evaluations with gradient each.

    Args:
        function: as in :func:`ascend`.
        points: shape (K, m).
        scale: step of every coordinate, shape (m,).

    Returns:
        Shape (K, m, m), symmetric.

    >>> curvature(lambda x: (-x.square().sum(-1), -2 * x), torch.zeros(1, 1), torch.ones(1))
    tensor([[[2.]]])
    """
    count, dim = points.shape
    shift = torch.diag(scale)
    stencil = torch.cat([points[:, None] + shift, points[:, None] - shift], 1)
    slopes = function(stencil.reshape(-1, dim))[1].view(count, 2, dim, dim)
    hessian = -(slopes[:, 0] - slopes[:, 1]) / (2 * scale[:, None])
    return 0.5 * (hessian + hessian.mT)


def newton(
    function: ValueAndGradient, points: Tensor, values: Tensor, precisions: Tensor, *, step: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    """Maxima to the last digit, and their curvature in units of its own deviations.

    A first guess of the curvature makes a long thin maximum round: what an ascent along it would take hundreds of steps
    for is one step, and differences of gradients are taken where the mass is, whatever the scales. At most 2 m + 4
    evaluations with gradient each.

    Args:
        function: as in :func:`ascend`.
        points: near maxima, shape (K, m).
        values: there, shape (K,).
        precisions: negative Hessians there, positive definite, shape (K, m, m).
        step: of the differences, in deviations.

    Returns:
        Points, values, and precisions; of a point that a step does not raise, or where the curvature is not that of a
        maximum, the old ones.

    References:
        Nocedal and Wright, Numerical Optimization (2006), chapter 6.

    >>> bent = lambda x: (-x[:, 0] ** 2 - 100 * x[:, 1] ** 2, torch.stack((-2 * x[:, 0], -200 * x[:, 1]), 1))
    >>> start, guess = torch.tensor([[1.0, 0.1]]), torch.tensor([[[3.0, 0.0], [0.0, 300.0]]])
    >>> newton(bent, start, bent(start)[0], guess)[2].round()
    tensor([[[  2.,   0.],
             [  0., 200.]]])
    """
    lower, failed = torch.linalg.cholesky_ex(precisions)
    # t = point + factor z has the unit precision that was guessed.
    factors = torch.linalg.inv(torch.where(failed[:, None, None] > 0, torch.eye(points.shape[1]).to(lower), lower)).mT
    slopes = function(points)[1]
    for _ in range(NEWTON_STEPS):
        moved = points + (factors @ (factors.mT @ slopes[..., None]))[..., 0]
        new_values, new_slopes = function(moved)
        better = (failed == 0) & (new_values > values)
        points, slopes = torch.where(better[:, None], moved, points), torch.where(better[:, None], new_slopes, slopes)
        values = torch.where(better, new_values, values)
        if not bool(better.any()):
            break
    count, dim = points.shape
    stencil = torch.cat([points[:, None] + step * factors.mT, points[:, None] - step * factors.mT], 1)
    slopes = (function(stencil.reshape(-1, dim))[1].view(count, 2, dim, dim)) @ factors[:, None]
    hessian = -(slopes[:, 0] - slopes[:, 1]) / (2 * step)
    hessian = 0.5 * (hessian + hessian.mT)
    sound = torch.isfinite(hessian).all((1, 2)) & (failed == 0)
    safe = torch.where(sound[:, None, None], hessian, torch.eye(dim).to(hessian))
    sound = sound & (torch.linalg.eigvalsh(safe)[:, 0] > 0)
    back = torch.linalg.inv(factors)
    return points, values, torch.where(sound[:, None, None], back.mT @ safe @ back, precisions)


def distinct(points: Tensor, values: Tensor, metric: Tensor, *, radius: float, limit: int) -> Tensor:
    """Numbers of points that lie further than ``radius`` from every better one, best first.

    Args:
        points: shape (S, m).
        values: shape (S,).
        metric: lengths that count as one, shape (m,).
        radius: in root mean squares of ``metric``.
        limit: the most to return.

    Returns:
        Shape (k,), none of a value that is not finite.

    >>> points, values = torch.tensor([[0.0], [0.1], [5.0]]), torch.tensor([1.0, 2.0, 0.0])
    >>> distinct(points, values, torch.ones(1), radius=0.5, limit=10).tolist()
    [1, 2]
    """
    kept: list[int] = []
    scaled = points / metric
    for k in values.argsort(descending=True).tolist():
        if not torch.isfinite(values[k]) or len(kept) >= limit:
            break
        if all(float((scaled[k] - scaled[j]).square().mean().sqrt()) > radius for j in kept):
            kept.append(k)
    return torch.tensor(kept, dtype=torch.long)
