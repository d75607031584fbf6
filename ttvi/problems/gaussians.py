"""Mixtures of Gaussians: every mode, weight and covariance is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .problem import Array, Modes, Problem, box_problem, load_data, numbered

__all__ = ["five_modes", "gmm40", "rotated_mixture", "two_modes"]

_LOG_2PI = math.log(2 * math.pi)


class GaussianMixture:
    """Σ_k w_k N(μ_k, Σ_k), normalised.

    Args:
        weights: shape (k,).
        means: shape (k, d).
        covariances: shape (k, d, d).
    """

    def __init__(self, weights: torch.Tensor, means: torch.Tensor, covariances: torch.Tensor) -> None:
        factors = torch.linalg.cholesky(covariances)
        log_volume = factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constants = weights.log() - log_volume - 0.5 * means.shape[1] * _LOG_2PI
        whitening = torch.linalg.inv(factors)
        self.weights, self.means = weights, means
        self._constants, self._whitening = Array(constants), Array(whitening)
        self._offsets = Array(torch.einsum("kij,kj->ki", whitening, means))

    def components(self, x: torch.Tensor) -> torch.Tensor:
        """log w_k + log N(x; μ_k, Σ_k), (batch, d) -> (batch, k)."""
        z = torch.einsum("kij,bj->bki", self._whitening.like(x), x) - self._offsets.like(x)
        return self._constants.like(x) - 0.5 * z.square().sum(2)

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """log Σ_k w_k N(x; μ_k, Σ_k), (batch, d) -> (batch,)."""
        return torch.logsumexp(self.components(x), 1)

    def modes(self) -> Modes:
        """Centres, weights and responsibilities."""
        return Modes(self.means, self.weights, lambda x: self.components(x).softmax(1))


def two_modes(dim: int = 8, sigma: float = 1.0) -> Problem:
    """½ N(−3·1, σ²I) + ½ N(3·1, σ²I) in the box [−10, 10]^d; normalised, each mode holds half the mass.

    Args:
        dim: number of coordinates.
        sigma: standard deviation of every coordinate in a mode.

    Raises:
        ValueError: for a sigma outside of (0, 1].
    """
    if not 0 < sigma <= 1:
        raise ValueError(f"two_modes: expected 0 < `sigma` <= 1; got {sigma}. Wider modes leave the box.")

    def components(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([-0.5 * ((x - c) / sigma).square().sum(1) for c in (-3.0, 3.0)], 1)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        return torch.logsumexp(components(x), 1) - math.log(2.0) - dim * (0.5 * _LOG_2PI + math.log(sigma))

    return box_problem(
        f"two-modes-{dim}" if sigma == 1 else f"two-modes-{dim}-sigma-{sigma:g}",
        log_density,
        [-10.0] * dim,
        [10.0] * dim,
        [math.ceil(56 / sigma)] * dim,
        names=numbered("x", dim),
        log_evidence=0.0,
        reference="two Gaussian modes; normalised by construction",
        modes=_modes([[-3.0] * dim, [3.0] * dim], [0.5, 0.5], lambda x: components(x).softmax(1)),
    )


def gmm40() -> Problem:
    """Forty Gaussians of equal weight and standard deviation 1.31 in the plane; normalised.

    The centres spread over [−40, 40]², and some modes overlap.

    References:
        Midgley, Stimper, Simm, Schölkopf and Hernández-Lobato, "Flow annealed importance sampling bootstrap" (2023).
    """
    data = load_data("gaussian_mixture_40")
    means = torch.tensor(data["means"], dtype=torch.float64)
    count = len(means)
    covariances = data["deviation"] ** 2 * torch.eye(2, dtype=torch.float64).expand(count, 2, 2)
    mixture = GaussianMixture(torch.full((count,), 1 / count, dtype=torch.float64), means, covariances)
    return _mixture_problem("gmm40", mixture, "40-mode Gaussian mixture; normalised by construction")


def rotated_mixture() -> Problem:
    """Ten Gaussians of unlike weights in ten dimensions, each with principal axes of its own; normalised."""
    data = load_data("rotated_mixture_10")
    weights = torch.tensor(data["weights"], dtype=torch.float64)
    covariances = torch.tensor(data["covariances"], dtype=torch.float64).reshape(-1, 10, 10)
    mixture = GaussianMixture(weights / weights.sum(), torch.tensor(data["means"], dtype=torch.float64), covariances)
    return _mixture_problem("rotated-mixture-10", mixture, "ten rotated Gaussians; normalised by construction")


def five_modes(dim: int = 30) -> Problem:
    """Five Gaussians of equal weight that differ in the last two coordinates, on the box [−1, 1]^d.

    In u = 2θ the centres are 0 and (±1, ±1) in the last two coordinates and 0 in the others; the covariance is 0.04 I
    with a correlation of ±0.95 between the last two: +0.95 at 0 and where the two signs agree, −0.95 where they differ.
    The density is the normalised mixture in u taken as a density in θ (no factor 2^d), so log Z = −d log 2 up to the
    5e-7 of the mass that the box cuts off.

    References:
        Khoo, Lindsey and Zhao, "Tensorizing flows: a tool for variational inference" (2023).
    """
    corners = [(0.0, 0.0), (1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0)]
    means = torch.zeros(5, dim, dtype=torch.float64)
    means[:, -2:] = torch.tensor(corners, dtype=torch.float64)
    covariances = 0.04 * torch.eye(dim, dtype=torch.float64).repeat(5, 1, 1)
    for covariance, (a, b) in zip(covariances, corners, strict=True):
        covariance[-2, -1] = covariance[-1, -2] = 0.04 * (0.95 if a * b >= 0 else -0.95)
    mixture = GaussianMixture(torch.full((5,), 0.2, dtype=torch.float64), means, covariances)
    return box_problem(
        f"five-modes-{dim}",
        lambda x: mixture.log_density(2 * x),
        [-1.0] * dim,
        [1.0] * dim,
        None,
        names=numbered("theta", dim),
        log_evidence=-dim * math.log(2.0),
        reference="five-mode mixture of 'Tensorizing flows' (2023); closed form",
        bounded=True,
        log_evidence_error=1e-6,
        modes=Modes(means / 2, mixture.weights, lambda x: mixture.components(2 * x).softmax(1)),
    )


def _mixture_problem(name: str, mixture: GaussianMixture, reference: str) -> Problem:
    """A mixture on R^d, to be fitted without a box."""
    dim = mixture.means.shape[1]
    return Problem(
        name=name,
        dim=dim,
        log_density=mixture.log_density,
        lower=None,
        upper=None,
        make_bases=None,
        log_evidence=0.0,
        names=numbered("x", dim),
        reference=reference,
        modes=mixture.modes(),
    )


def _modes(
    centres: list[list[float]], weights: list[float], responsibilities: Callable[[torch.Tensor], torch.Tensor]
) -> Modes:
    return Modes(
        torch.tensor(centres, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64), responsibilities
    )
