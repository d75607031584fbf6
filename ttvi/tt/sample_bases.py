"""Bases for data: modes and frequencies of a basis, boxes and lines from a column of samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .ascent import Rows, Sweeper, log_mixture, log_square
from .basis import Basis, Categorical, Fourier, Hermite, Legendre, Piecewise

__all__ = ["DEFAULT_SIZE", "chosen_basis", "frequencies", "mode_matrix", "rank_one"]

DEFAULT_SIZE = 12  # of bases without size, to begin with: functions too many oscillate where there are few rows
CLEARLY = 0.01  # nats of held-out log-likelihood
EDGE = 0.1  # a column ends sharply where its density is at least this fraction of the average one,
DROP = 1.6  # and falls by less than this factor from there to the last samples
SPACINGS = 5.0  # of the samples next to a sharp end lie between them and the end of the box
START_SHARE = 1e-2
START_SWEEPS = 8
JUMPS = 10.0  # weight of jumps between elements: the lowest frequencies are then right to a percent
ROWS = 20_000  # enough to tell two bases of one column apart


def mode_matrix(basis: Basis) -> Tensor:
    """Orthonormal modes in rows, lowest frequency first: shape ``(n, n)``, float64; times nodal coefficients gives modal ones."""
    if isinstance(basis, Piecewise):
        return torch.linalg.eigh(_roughness(basis)).eigenvectors.T.contiguous()
    return basis.modal(torch.eye(basis._require_size(), dtype=torch.float64))


def frequencies(basis: Basis) -> Tensor:
    r"""Squared frequencies :math:`\nu^2` of the modes, float64, shape ``(n,)``: half-periods per length of the support.

    On the line the degree of the Hermite function, which is the sum of the squares of frequency and position, halved.
    """
    j = torch.arange(basis._require_size(), dtype=torch.float64)
    if isinstance(basis, Categorical):
        return torch.zeros_like(j)
    if isinstance(basis, Fourier):
        return (2 * ((j + 1) // 2)).square()
    if isinstance(basis, Piecewise):
        values = torch.linalg.eigvalsh(_roughness(basis)).clamp_min(0)
        return values * (basis.length / math.pi) ** 2
    return j if isinstance(basis, Hermite) else j.square()


def _roughness(basis: Piecewise) -> Tensor:
    """Integrated squared derivative, jumps between elements included as in interior-penalty methods: shape ``(n, n)``."""
    slopes = basis.derivative(basis.nodes())
    result = slopes.T @ (basis.weights()[:, None] * slopes)
    h = basis.element_length
    edges = basis.lower + h * torch.arange(1, basis.elements, dtype=torch.float64)
    jumps = basis(edges + 1e-9 * h) - basis(edges - 1e-9 * h)
    return result + JUMPS * (basis.degree + 1) ** 2 / h * (jumps.T @ jumps)


def rank_one(rows: Rows, penalty: Tensor, start: Tensor, weight: float) -> Tensor:
    """The square root of the density of one column, shape ``(1, n, 1)``; ``start`` is a function without zeros."""
    cores, sweeper = [start.view(1, -1, 1)], Sweeper([penalty], 1, None)
    for _ in range(START_SWEEPS):
        cores = sweeper.sweep(cores, rows, weight, START_SHARE, 0)
    return cores[0]


def chosen_basis(column: Tensor, weight: float) -> Basis:
    """A box where both ends are sharp, else the better of line and box on held-out samples.

    Args:
        column: samples in random order, shape ``(m,)``, not all equal.
        weight: of the roughness penalty.
    """
    box, sharp = _box(column)
    if sharp:
        return box
    candidates: list[Basis] = [_line(column), box]
    column = column[:ROWS]
    cut = max(1, len(column) // 5)
    scores = [_score(basis, column[cut:], column[:cut], weight) for basis in candidates]
    return candidates[int(scores[1] > scores[0] + CLEARLY)]  # the line unless the box is clearly better: it has no end


def _box(column: Tensor) -> tuple[Legendre, bool]:
    """Margins of a few spacings at sharp ends, of half the range at others; whether both ends are sharp."""
    ordered = column.sort().values.double()
    near = min(len(column) // 3, max(20, len(column) // 1000))
    span = float(ordered[-1] - ordered[0])
    margins = []
    for side in (ordered, -ordered.flip(0)):
        gap, next_gap = float(side[near] - side[0]), float(side[2 * near] - side[near])
        sharp = near / len(column) * span >= EDGE * gap and gap <= DROP * next_gap
        margins.append(max(SPACINGS * gap / near, 1e-6 * span) if sharp else 0.5 * span)
    low, high = float(ordered[0]) - margins[0], float(ordered[-1]) + margins[1]
    return Legendre(low, high, size=DEFAULT_SIZE), max(margins) < 0.5 * span


def _line(column: Tensor) -> Hermite:
    """Functions that reach as far as the data, a few outliers left to the reference."""
    ordered = column.sort().values.double()
    inside = ordered[int(0.001 * len(ordered)) : len(ordered) - int(0.001 * len(ordered))]
    middle = 0.5 * float(inside[0] + inside[-1])
    reach = 0.5 * float(inside[-1] - inside[0]) or 0.5 * float(ordered[-1] - ordered[0])
    return Hermite(middle, 1.35 * reach / math.sqrt(2 * DEFAULT_SIZE), size=DEFAULT_SIZE)


def _score(basis: Basis, train: Tensor, held_out: Tensor, weight: float) -> float:
    """Held-out log-likelihood of one column."""
    parts = []
    matrix = mode_matrix(basis).to(train)
    for x in (train, held_out):
        features = [basis(x) @ matrix.T]
        parts.append(Rows(features, basis.reference_log_prob(x), torch.full_like(x, 1 / len(x))))
    penalty = frequencies(basis).to(train)
    core = rank_one(parts[0], penalty, torch.eye(len(penalty)).to(train)[0], weight)
    return float(log_mixture(log_square([core], parts[1]), parts[1], START_SHARE).mean())
