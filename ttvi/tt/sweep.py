"""One half-sweep of cross approximation: fibers, truncation, pivots, move on; and its validation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .algebra import evaluate_indices, sample_indices
from .cache import Grid
from .canonical import choose_rank, orthogonalize
from .pivots import maxvol
from .train import TensorTrain

__all__ = ["CrossState", "HalfSweep", "Validation", "half_sweep", "validate"]

INCUMBENT_BONUS = (
    2.0  # a pivot of the last sweep stays unless another row beats it by this factor: its fibers are paid for
)

Transform = Callable[[Tensor], Tensor]
"""From stored values to the tensor that is approximated, e.g. exp(beta / 2 (log p - shift))."""


@dataclass(frozen=True)
class CrossState:
    """Nested index sets at every cut, and the frames of the interfaces that they interpolate.

    Attributes:
        left: ``left[k]`` holds ``r_k`` multi-indices of the first ``k`` modes, shape ``(r_k, k)``.
        right: ``right[k]`` holds multi-indices of the modes from ``k`` on, shape ``(r_k, d - k)``.
        frames: ``frames[k]`` is the triangular factor of the interface built on ``right[k]``: columns of a fiber matrix
            times its transpose have the singular values of the train itself at cut ``k``.
    """

    left: tuple[Tensor, ...]
    right: tuple[Tensor, ...]
    frames: tuple[Tensor, ...]

    @classmethod
    def empty(cls, dim: int, dtype: torch.dtype, device: torch.device) -> CrossState:
        """No pivots yet: the first half-sweep lives on the points it is given."""
        sets = [torch.zeros(0, k, dtype=torch.int64, device=device) for k in range(dim + 1)]
        none = torch.zeros(0, 0, dtype=dtype, device=device)
        return cls(tuple(sets), tuple(sets[::-1]), (none,) * (dim + 1))

    def reversed(self) -> CrossState:
        """The same state for a sweep in the opposite direction."""
        return CrossState(
            tuple(s.flip(1) for s in reversed(self.right)),
            tuple(s.flip(1) for s in reversed(self.left)),
            self.frames[::-1],
        )


@dataclass(frozen=True)
class HalfSweep:
    """What a half-sweep produced.

    Attributes:
        state: index sets with new ``left`` sets (and frames) for every cut.
        train: the interpolant, in coefficients (values times the square roots of the weights).
        residual: the largest relative norm, over cuts, of what the test fibers showed outside the previous column spaces.
        discarded: the largest relative norm, over cuts, that ``max_rank`` forced out.
    """

    state: CrossState
    train: TensorTrain
    residual: float
    discarded: float


def half_sweep(
    grid: Grid,
    state: CrossState,
    transform: Transform,
    root_weights: Sequence[Tensor],
    *,
    samples: Tensor,
    forced: Tensor,
    tol: float,
    max_rank: int,
) -> HalfSweep:
    r"""One sweep from the first mode to the last: fibers, truncation, pivots, move on. Cost :math:`O(d\,n\,r^2)` values.

    At mode ``k`` the fibers *left pivots × nodes × (right pivots and test columns)* are evaluated. Seen through the
    orthonormal frames of both interfaces, the pivot columns have the singular values of the current train; the test
    columns, suffixes of draws from the current train, estimate by Monte Carlo the part of the column space that is
    missing. Both are truncated together to ``tol``, and maxvol picks the rows to go on with.

    Args:
        grid: the function.
        state: index sets of the previous half-sweep (reversed).
        transform: applied to the stored values.
        root_weights: square roots of the quadrature weights, one ``(n_k,)`` tensor per mode.
        samples: multi-indices drawn from the current train, shape ``(s, d)``.
        forced: multi-indices whose fibers must be represented, shape ``(f, d)``.
        tol: relative truncation tolerance of the whole train.
        max_rank: cap on every rank.

    References:
        Oseledets, Tyrtyshnikov: TT-cross approximation for multidimensional arrays (2010).
        Dolgov, Savostyanov: Parallel cross interpolation for high-precision calculation of high-dimensional integrals (2020).
    """
    dim = len(grid.mode_sizes)
    device, dtype = root_weights[0].device, root_weights[0].dtype
    left = torch.zeros(1, 0, dtype=torch.int64, device=device)
    frame = torch.ones(1, 1, dtype=dtype, device=device)
    sets, frames, cores = [left], [frame], []
    residual = discarded = 0.0
    tests = torch.cat([forced, samples])
    for k in range(dim - 1):
        columns, importance = _columns(grid, state.right[k + 1], tests, len(forced), k + 1)
        values = transform(grid.fibers(left, columns))  # (r, n, columns)
        split = _split(
            values, frame, root_weights[k], state.frames[k + 1], importance, tol / math.sqrt(dim - 1), max_rank
        )
        residual, discarded = max(residual, split.residual), max(discarded, split.discarded)
        rows, interpolation = _choose_rows(grid, split.basis, left, state.left[k + 1], grid.mode_sizes[k])
        n = grid.mode_sizes[k]
        left = torch.cat([left[rows // n], (rows % n)[:, None]], 1)
        core = interpolation.reshape(-1, n, interpolation.shape[1]) * root_weights[k][:, None]
        frame = torch.linalg.qr((frame @ core.flatten(1)).reshape(-1, core.shape[2]), mode="r").R
        frame = frame / frame.norm()
        sets.append(left)
        frames.append(frame)
        cores.append(core)
    last = transform(grid.fibers(left, left.new_zeros(1, 0)))
    cores.append(last * root_weights[-1][:, None])
    new = dataclasses.replace(state, left=(*sets, state.left[dim]), frames=(*frames, frame.new_ones(1, 1)))
    return HalfSweep(new, TensorTrain(cores), residual, discarded)


def _columns(grid: Grid, pivots: Tensor, tests: Tensor, num_forced: int, start: int) -> tuple[Tensor, Tensor]:
    """Pivot suffixes, then the distinct test suffixes; and the Monte Carlo weight of each of the latter."""
    suffixes = tests[:, start:]
    keys, known = grid.keys(suffixes, start), grid.keys(pivots, start)
    unique, inverse = torch.unique(keys, return_inverse=True)
    order = torch.arange(len(keys) - 1, -1, -1, device=keys.device)
    first = torch.zeros_like(unique).scatter_(
        0, inverse[order], order
    )  # the earliest of equals: forced ones come first
    first = first[~torch.isin(unique, known)].sort().values
    num_samples = max(1, len(tests) - num_forced)
    weight = torch.where(first < num_forced, 1.0, num_samples**-0.5)
    return torch.cat([pivots, suffixes[first]]), weight


@dataclass(frozen=True)
class _Split:
    basis: Tensor  # (r n, rank): columns that span the values kept, not weighted, not framed
    residual: float
    discarded: float


def _split(
    values: Tensor,
    frame: Tensor,
    root_weight: Tensor,
    right_frame: Tensor,
    importance: Tensor,
    tol: float,
    max_rank: int,
) -> _Split:
    """The dominant columns of a fiber matrix, measured in the orthonormal frames of its two interfaces."""
    r, n, _ = values.shape
    pivots = right_frame.shape[0]
    # Far from the largest value seen, entries are as small as 1e-300: their squares and reciprocals are no numbers.
    values = _to_unit(values)
    framed = _to_unit((frame @ (values * root_weight[:, None]).reshape(r, -1)).reshape(r * n, -1))
    plain = values.reshape(r * n, -1)
    u, sigma, vh = torch.linalg.svd(framed[:, :pivots] @ right_frame.T, full_matrices=False)
    size = float(sigma.norm()) if pivots else 0.0
    eps = torch.finfo(values.dtype).eps
    nothing = eps**2  # beside the largest entry, which is one
    size = size if size > nothing else 0.0
    floor = eps * 4 * size if size else nothing
    keep = sigma > floor
    u, sigma, vh = u[:, keep], sigma[keep], vh[keep]
    basis = plain[:, :pivots] @ (right_frame.T @ (vh.T / sigma))

    extra, extra_plain = framed[:, pivots:], plain[:, pivots:]
    norms = extra.norm(dim=0)
    use = norms > eps * nothing
    weight = importance[use] / norms[use] * (size if size > 0 else 1.0)
    shadow = u.T @ extra[:, use]
    p, tau, qh = torch.linalg.svd((extra[:, use] - u @ shadow) * weight, full_matrices=False)
    size = size or float(tau.norm())
    fresh = tau > max(floor, 1e-2 * tol * size)
    combine = weight[:, None] * qh[fresh].T / tau[fresh]
    basis = torch.cat([basis, (extra_plain[:, use] - basis @ shadow) @ combine], 1)

    spectrum, order = torch.cat([sigma, tau[fresh]]).sort(descending=True)
    if not len(spectrum):
        return _Split(torch.ones_like(plain[:, :1]), 0.0, 0.0)
    rank = choose_rank(spectrum, tol * size, min(max_rank, r * n))
    wanted = choose_rank(spectrum, tol * size)
    discarded = float(spectrum[rank:].norm()) / size if rank < wanted else 0.0
    return _Split(_to_unit(basis[:, order[:rank]], 0), float(tau.norm()) / size, discarded)


def _to_unit(matrix: Tensor, dim: int | None = None) -> Tensor:
    """Divided by its largest entry, or every column by its own; zero stays zero."""
    peak = matrix.abs().amax() if dim is None else matrix.abs().amax(dim, keepdim=True)
    return matrix / torch.where(peak > 0, peak, 1.0)


def _choose_rows(grid: Grid, basis: Tensor, left: Tensor, incumbents: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Maxvol rows of the column space, with a bonus for the rows that were pivots before."""
    q = torch.linalg.qr(basis).Q
    nodes = torch.arange(n, device=left.device)[:, None]
    candidates = grid.keys(left)[:, None] + grid.keys(nodes, left.shape[1])
    known = torch.isin(candidates.flatten(), grid.keys(incumbents))
    biased = torch.where(known[:, None], INCUMBENT_BONUS, 1.0) * q
    rows, _ = maxvol(biased)
    return rows, torch.linalg.solve(q[rows].mT, q.mT).mT


@dataclass(frozen=True)
class Validation:
    """Fresh draws from a train, compared with the function.

    Attributes:
        indices: the draws, shape ``(s, d)``.
        log_square: log of the squared coefficient of the train at every draw.
        errors: squared relative error at every draw.
        error: their root mean square, an unbiased estimate of ``|f - g|² / |g|²`` where the train is not zero.
    """

    indices: Tensor
    log_square: Tensor
    errors: Tensor
    error: float


Coefficients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Multi-indices to mantissas and log scales of the coefficients of the function that is approximated."""


def validate(
    train: TensorTrain, coefficients: Coefficients, count: int, generator: torch.Generator | None
) -> Validation:
    r"""Estimate :math:`\lVert f - g \rVert / \lVert g \rVert` from draws with probability :math:`g_i^2/\lVert g \rVert^2`.

    Args:
        train: the approximation ``g``.
        coefficients: mantissas and log scales of the coefficients of ``f`` at multi-indices.
        count: number of draws.
        generator: source of randomness.
    """
    indices, _ = sample_indices(orthogonalize(train), count, generator=generator)
    mantissa, log = evaluate_indices(train, indices)
    wanted, wanted_log = coefficients(indices)
    errors = (wanted / mantissa * (wanted_log - log).exp() - 1).square()
    return Validation(indices, 2 * (mantissa.abs().log() + log), errors, float(errors.mean().sqrt()))
