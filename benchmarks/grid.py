"""Grids, and what a squared train on a grid represents: its norm, exact draws, and importance weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.targets import Target, find_maximum


def quadrature(size: int, lower: float, upper: float, basis: str) -> tuple[Tensor, Tensor]:
    """Return nodes and weights, each (size,): Gauss-Legendre on the interval, or equispaced on the circle."""
    if basis == "fourier":
        step = (upper - lower) / size
        return lower + step * torch.arange(size, dtype=torch.float64), torch.full((size,), step, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(size)
    half = (upper - lower) / 2
    return torch.from_numpy(lower + half * (nodes + 1)), torch.from_numpy(half * weights)


class GridTarget:
    r"""The tensor sqrt(p(x_i) w_i / max p / W) over grid indices i: its squared norm is the evidence.

    W is the product of the mean weights, divided out so that entries stay near one in any dimension; `log_scale`
    holds what was divided out, log max p + log W, so log Z = log_scale + log ||tensor||^2.
    """

    def __init__(self, target: Target) -> None:
        self.target, case = target, target.case
        rules = [
            quadrature(case.nodes, float(a), float(b), case.basis)
            for a, b in zip(target.lower, target.upper, strict=True)
        ]
        self.nodes = torch.stack([nodes for nodes, _ in rules])  # (d, n)
        weights = torch.stack([weights for _, weights in rules])
        mean = weights.mean(dim=1, keepdim=True)
        self.log_weights = (weights / mean).log()  # (d, n)
        self.shift = find_maximum(target)
        self.log_scale = self.shift + float(mean.log().sum())

    @property
    def shape(self) -> list[int]:
        """Mode sizes."""
        return [self.nodes.shape[1]] * self.nodes.shape[0]

    def log_square(self, index: Tensor, *, counted: bool = True) -> Tensor:
        """Return the log of the squared entries at (batch, d) indices: (batch,)."""
        modes = torch.arange(index.shape[1])
        density = self.target.log_density if counted else self.target.log_density.uncounted
        return density(self.nodes[modes, index]) - self.shift + self.log_weights[modes, index].sum(dim=1)

    def __call__(self, index: Tensor) -> Tensor:
        """Return the entries at (batch, d) indices: (batch,)."""
        return torch.exp(0.5 * self.log_square(index))


def right_orthogonalize(cores: list[Tensor]) -> tuple[list[Tensor], float]:
    """Return a train of unit norm whose cores (r, n, r) but the first have orthonormal rows, and the log norm."""
    cores, log_norm = [core.detach().to(torch.float64) for core in cores], 0.0
    for k in range(len(cores) - 1, 0, -1):
        rank, size, right = cores[k].shape
        q, r = torch.linalg.qr(cores[k].reshape(rank, size * right).T)
        cores[k] = q.T.reshape(-1, size, right)
        scale = torch.linalg.norm(r)
        cores[k - 1] = torch.einsum("anb,cb->anc", cores[k - 1], r / scale)
        log_norm += math.log(float(scale)) if scale > 0 else -math.inf
    scale = torch.linalg.norm(cores[0])
    cores[0] = cores[0] / scale
    return cores, log_norm + (math.log(float(scale)) if scale > 0 else -math.inf)


def draw(cores: list[Tensor], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw grid indices exactly from the square of a right-orthogonal train of unit norm.

    Returns:
        Indices (count, d) and the log-probabilities (count,) of the cells drawn.
    """
    indices, log_probs = [], []
    for batch in torch.arange(count).split(512):  # (512, n, r) at a time
        left = torch.ones(len(batch), 1, dtype=torch.float64)
        log_prob = torch.zeros(len(batch), dtype=torch.float64)
        columns = []
        for core in cores:
            fiber = torch.einsum("ba,anc->bnc", left, core)
            mass = fiber.square().sum(dim=2)
            column = torch.multinomial(mass, 1, generator=generator)
            chosen = mass.gather(1, column)[:, 0]
            log_prob += (chosen / mass.sum(dim=1)).log()
            left = fiber[torch.arange(len(batch)), column[:, 0]] / chosen.sqrt()[:, None]
            columns.append(column)
        indices.append(torch.cat(columns, dim=1))
        log_probs.append(log_prob)
    return torch.cat(indices), torch.cat(log_probs)


def effective_sample_size(log_weights: Tensor) -> float:
    """Return (sum w)^2 / (N sum w^2), the effective fraction of the draws."""
    log_weights = log_weights.nan_to_num(nan=-math.inf)
    ess = 2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)
    return float(torch.exp(ess)) / len(log_weights)


def mode_mass(points: Tensor) -> float:
    """Return the fraction of points whose coordinates sum to a positive number."""
    return float((points.sum(dim=1) > 0).double().mean())


def score_points(target: Target, points: Tensor, log_prob: Tensor) -> dict[str, float]:
    """Score continuous draws of a normalised approximation by their importance weights."""
    log_weights = target.log_density.uncounted(points) - log_prob
    inside = ((points >= target.lower) & (points <= target.upper)).all(dim=1)
    return summarize(target, points, log_weights.masked_fill(~inside, -math.inf), 0.0)


def score_train(grid: GridTarget, cores: list[Tensor], count: int, generator: torch.Generator) -> dict[str, float]:
    """Score a train that approximates `grid` by exact draws from its square: evidence, ESS and mode mass."""
    cores, log_norm = right_orthogonalize(cores)
    if not math.isfinite(log_norm):
        raise ArithmeticError("the train is zero or not finite")
    index, log_prob = draw(cores, count, generator)
    points = grid.nodes[torch.arange(index.shape[1]), index]
    scores = summarize(grid.target, points, grid.log_square(index, counted=False) - log_prob, grid.log_scale)
    error = abs(grid.log_scale + 2 * log_norm - grid.target.log_evidence)
    return {**scores, "log_evidence_error": error, "max_rank": max(core.shape[2] for core in cores)}


def summarize(target: Target, points: Tensor, log_weights: Tensor, log_scale: float) -> dict[str, float]:
    """Return ESS, the error of the importance-sampled log evidence, and the mode mass where it is asked for."""
    weighted = log_scale + float(log_weights.logsumexp(0)) - math.log(len(log_weights))
    scores = {
        "ess": effective_sample_size(log_weights),
        "weighted_log_evidence_error": abs(weighted - target.log_evidence),
    }
    if target.case.two_modes:
        scores["mode_mass"] = mode_mass(points)
    return scores
