"""The search for what a train has missed: coordinate ascent on the gap between the function and the train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .algebra import sample_indices, unit_scale
from .cache import GridFunction
from .canonical import orthogonalize
from .train import TensorTrain

__all__ = ["search"]

PASSES = 2


class GuardOptions(Protocol):
    """The knobs that a search needs."""

    @property
    def guard_starts(self) -> int: ...

    @property
    def tol(self) -> float: ...


def search(
    grid: GridFunction,
    train: TensorTrain,
    coefficients: Callable[[Tensor], tuple[Tensor, Tensor]],
    options: GuardOptions,
    relevance: float,
    generator: torch.Generator | None,
    reference: Sequence[Tensor] | None = None,
) -> Tensor:
    r"""Points around which :math:`|f - g|` carries a relevant share of the squared norm.

    From random starts and from draws of the train, coordinate ascent maximises :math:`\log|f - g|` (in logarithms, so
    that it has a slope where everything underflows), ``n`` values per start, mode and pass. The squared norm around a
    point is estimated by its value times the widths of the fibers through it; a gap is reported when its estimate
    exceeds a share of the largest such estimate of the function itself.

    Args:
        grid: pays for the search.
        train: the approximation ``g``.
        coefficients: mantissas and log scales of the coefficients of ``f`` at multi-indices.
        options: number of starts, and the tolerance.
        relevance: the least share that counts; ``(3 tol)²`` if that is more.
        generator: source of randomness.
        reference: probabilities of the nodes for the random starts; uniform when omitted.

    Returns:
        Multi-indices, shape ``(found, d)``.
    """
    half = max(1, options.guard_starts // 2)
    drawn, _ = sample_indices(orthogonalize(train), half, generator=generator)
    uniform = reference or [w.new_ones(n) for w, n in zip(grid.nodes, grid.mode_sizes, strict=True)]
    random = torch.stack([torch.multinomial(p, half, replacement=True, generator=generator) for p in uniform], 1)
    points = torch.cat([random, drawn])
    for _ in range(PASSES):
        points, gap_mass, target_mass = _ascend(grid, train, coefficients, points)
    share = max(relevance, (3 * options.tol) ** 2)
    largest = target_mass.nan_to_num(nan=-torch.inf).max()  # a start may end where everything vanishes
    relevant = gap_mass > largest + torch.log(torch.tensor(share, dtype=gap_mass.dtype))
    return torch.unique(points[relevant], dim=0)


def _ascend(
    grid: GridFunction, train: TensorTrain, coefficients: Callable[[Tensor], tuple[Tensor, Tensor]], points: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over the modes, each moved to the node of the largest gap; and the local squared norms, as logarithms."""
    points = points.clone()
    count, dim = points.shape
    rights = _right_states(train, points)
    left, left_log = points.new_ones(count, 1, dtype=train.dtype), train.log_scale.expand(count)
    gap_widths = target_widths = left.new_zeros(count)
    for k, core in enumerate(train.cores):
        n = core.shape[1]
        right, right_log = rights[k]
        options = (left @ core.flatten(1)).unflatten(1, core.shape[1:])  # (count, n, s)
        approximation = (options @ right.unsqueeze(-1)).squeeze(-1)
        candidates = points.repeat_interleave(n, 0)
        candidates[:, k] = torch.arange(n, device=points.device).repeat(count)
        value, value_log = (t.reshape(count, n) for t in coefficients(candidates))
        log_gap = _log_difference(value, value_log, approximation, (left_log + right_log)[:, None])
        log_target = value.abs().log() + value_log
        best, choice = log_gap.max(1)
        gap_widths = gap_widths + torch.logsumexp(2 * log_gap, 1) - 2 * best
        chosen = log_target.gather(1, choice[:, None]).squeeze(1)
        target_widths = target_widths + (torch.logsumexp(2 * log_target, 1) - 2 * chosen).clamp(max=1e3)
        points[:, k] = choice
        left, log = unit_scale(options[torch.arange(count, device=points.device), choice], -1)
        left_log = left_log + log
    return points, 2 * best + gap_widths, 2 * chosen + target_widths


def _right_states(train: TensorTrain, points: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every mode the contraction of all later cores at the points, scaled, with its logarithm."""
    count = len(points)
    state, log = points.new_ones(count, 1, dtype=train.dtype), points.new_zeros(count, dtype=train.dtype)
    states = [(state, log)]
    for k in range(train.dim - 1, 0, -1):
        chosen = train.cores[k].transpose(0, 1)[points[:, k]]
        state, change = unit_scale((chosen @ state.unsqueeze(-1)).squeeze(-1), -1)
        log = log + change
        states.append((state, log))
    return states[::-1]


def _log_difference(a: Tensor, a_log: Tensor, b: Tensor, b_log: Tensor) -> Tensor:
    """log |a exp(a_log) - b exp(b_log)| without overflow; -inf where both vanish."""
    top = torch.maximum(a_log, b_log)
    top = torch.where(torch.isfinite(top), top, 0.0)
    return (a * (a_log - top).exp() - b * (b_log - top).exp()).abs().log() + top
