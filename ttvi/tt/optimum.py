"""The search for the maximum of a functional train: coordinate ascent on the nodes, then a polish between them."""

from __future__ import annotations

import torch
from torch import Tensor

from .algebra import add, evaluate, evaluate_indices, norm, sample_indices, unit_scale
from .basis import Basis, Hermite
from .canonical import orthogonalize, truncate
from .train import TensorTrain

__all__ = ["maximize"]

PASSES = 12
POLISHED = 16  # of the best nodes, moved off the grid


def maximize(
    train: TensorTrain, bases: tuple[Basis, ...], starts: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    r"""The largest value found, at a point of shape ``(d,)``.

    Random nodes and draws of :math:`g^2` climb coordinate by coordinate; then draws of :math:`(g - \min g)^2`, with
    the smallest value found so far, do the same: they are close to the maximum however the function is shifted. The best
    few leave the grid by a quasi-Newton iteration within the support. A search, not a proof.
    """
    weights = [b.weights(dtype=train.dtype, device=train.device).sqrt() for b in bases]
    values = TensorTrain([c / w[:, None] for c, w in zip(train.cores, weights, strict=True)], train.log_scale)
    drawn = torch.cat([_random(train, starts, generator), _draws(train, starts, generator)])
    high, low = _ascend(values, drawn, 1.0), _ascend(values, drawn, -1.0)
    lowest = _entries(values, low).min()
    shifted = add(train, TensorTrain([(-lowest * weights[0])[None, :, None], *(w[None, :, None] for w in weights[1:])]))
    high = torch.unique(
        torch.cat([high, _ascend(values, _draws(truncate(shifted, tol=1e-6), starts, generator), 1.0)]), dim=0
    )
    order = _entries(values, high).argsort(descending=True)[:POLISHED]
    return _polish(train, bases, high[order])


def _random(train: TensorTrain, count: int, generator: torch.Generator | None) -> Tensor:
    columns = [torch.randint(n, (count,), generator=generator, device=train.device) for n in train.mode_sizes]
    return torch.stack(columns, 1)


def _draws(train: TensorTrain, count: int, generator: torch.Generator | None) -> Tensor:
    if not bool(torch.isfinite(norm(train, log=True))):
        return _random(train, count, generator)
    return sample_indices(orthogonalize(train), count, generator=generator)[0]


def _entries(values: TensorTrain, indices: Tensor) -> Tensor:
    mantissa, log = evaluate_indices(values, indices)
    return mantissa * log.exp()


def _ascend(values: TensorTrain, points: Tensor, sign: float) -> Tensor:
    """Every coordinate in turn to its best node, the others held, until nothing moves."""
    for _ in range(PASSES):
        before = points
        points = _pass(values, points.clone(), sign)
        if torch.equal(points, before):
            break
    return points


def _pass(values: TensorTrain, points: Tensor, sign: float) -> Tensor:
    rows = torch.arange(len(points), device=points.device)
    rights = [values.cores[0].new_ones(len(points), 1)]
    for k in range(values.dim - 1, 0, -1):
        chosen = values.cores[k].transpose(0, 1)[points[:, k]]
        rights.append(unit_scale((chosen @ rights[-1].unsqueeze(-1)).squeeze(-1), -1)[0])
    left = values.cores[0].new_full((len(points), 1), sign)
    for k, core in enumerate(values.cores):
        options = (left @ core.flatten(1)).unflatten(1, core.shape[1:])
        points[:, k] = (options @ rights[values.dim - 1 - k].unsqueeze(-1)).squeeze(-1).argmax(1)
        left = unit_scale(options[rows, points[:, k]], -1)[0]
    return points


def _polish(train: TensorTrain, bases: tuple[Basis, ...], indices: Tensor) -> tuple[Tensor, Tensor]:
    """L-BFGS between the nodes. On an interval x = mid + half sin(angle): the ends are interior, no bound is active."""
    nodes = [b.nodes(dtype=train.dtype, device=train.device) for b in bases]
    start = torch.stack([x[indices[:, k]] for k, x in enumerate(nodes)], 1)
    mid, half = start.new_zeros(len(bases)), start.new_ones(len(bases))
    kind = []  # per coordinate: 0 fixed, 1 free, 2 on an interval
    for k, basis in enumerate(bases):
        kind.append(0 if basis.discrete else 1 if basis.periodic or isinstance(basis, Hermite) else 2)
        if kind[-1] == 2:
            mid[k] = 0.5 * (basis.lower + basis.upper)  # type: ignore[attr-defined]
            half[k] = 0.5 * (basis.upper - basis.lower)  # type: ignore[attr-defined]
        elif kind[-1] == 1:
            half[k] = basis.scale if isinstance(basis, Hermite) else basis.length  # type: ignore[attr-defined]
    kinds = torch.tensor(kind, device=start.device)
    unit = (start - mid) / half

    def point(z: Tensor) -> Tensor:
        moved = torch.where(kinds == 2, mid + half * torch.sin(z).clamp(-1, 1), mid + half * z)
        return torch.where(kinds == 0, start, moved)

    def value(x: Tensor) -> Tensor:
        mantissa, log = evaluate(train, [b(x[:, k]) for k, b in enumerate(bases)])
        return mantissa * log.exp()

    z = torch.where(kinds == 2, torch.asin(unit.clamp(-1, 1)), unit).requires_grad_(True)
    at_nodes = value(start).detach()
    scale = at_nodes.abs().max().clamp_min(torch.finfo(start.dtype).tiny)
    if bool((kinds > 0).any()):
        eps = torch.finfo(start.dtype).eps
        optimizer = torch.optim.LBFGS(
            [z], max_iter=200, history_size=20, tolerance_grad=eps, tolerance_change=eps, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = -(value(point(z)) / scale).sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
    with torch.no_grad():
        x = torch.cat([point(z.detach()), start])
        found = value(x)
        found = torch.where(torch.isfinite(found), found, -torch.inf)
        best = found.argmax()
    return _wrapped(x[best], bases), found[best]


def _wrapped(x: Tensor, bases: tuple[Basis, ...]) -> Tensor:
    """Periodic coordinates back into their period."""
    columns = []
    for value, basis in zip(x, bases, strict=True):
        if basis.periodic:
            value = basis.lower + torch.remainder(value - basis.lower, basis.length)  # type: ignore[attr-defined]
        columns.append(value)
    return torch.stack(columns)
