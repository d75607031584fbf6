"""Log-weights with known answers: log-normal, Pareto, constant, partly zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from ttvi.diagnostics import certify, effective_sample_size, log_evidence, pareto_k


def quantiles(count: int) -> np.ndarray:
    """Midpoint probabilities: a sample without randomness."""
    return (np.arange(count) + 0.5) / count


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_log_normal_weights(sigma):
    """w = exp(σ z): E w = exp(σ²/2), E w² = exp(2σ²), so ESS = exp(-σ²)."""
    z = torch.from_numpy(scipy.stats.norm.ppf(quantiles(200_000)))
    log_weights = sigma * z
    value, standard_error = log_evidence(log_weights)
    assert effective_sample_size(log_weights) == pytest.approx(math.exp(-(sigma**2)), rel=2e-3)
    assert value == pytest.approx(sigma**2 / 2, abs=1e-4)
    assert standard_error == pytest.approx(math.sqrt(math.expm1(sigma**2) / 200_000), rel=2e-3)


def test_standard_error_is_the_spread_over_repetitions(generator):
    normal = torch.randn((2000, 400), dtype=torch.float64, generator=generator, device=generator.device)
    results = [log_evidence(row) for row in 0.7 * normal]
    spread = float(np.std([value for value, _ in results]))
    assert float(np.mean([error for _, error in results])) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.7, 1.0, 2.0])
def test_pareto_weights(shape):
    """Weights (1 - u)^(-k) are Pareto with shape k; the prior draws the fit a little towards ½."""
    log_weights = torch.from_numpy(-shape * np.log1p(-quantiles(100_000)))
    tail = 3 * math.sqrt(100_000)
    expected = (tail * shape + 5) / (tail + 10)
    assert pareto_k(log_weights) == pytest.approx(expected, abs=0.03)
    assert pareto_k(log_weights - 700) == pytest.approx(pareto_k(log_weights), abs=1e-9)


def reference_pareto_k(log_weights: np.ndarray) -> float:
    """Plain numpy transcription of the published algorithm, one grid point at a time."""
    x = np.sort(np.exp(log_weights - log_weights.max()))
    tail = math.ceil(min(0.2 * x.size, 3 * math.sqrt(x.size)))
    y = x[-tail:] - x[-tail - 1]
    grid = 30 + int(math.sqrt(tail))
    thetas, scores = [], []
    for j in range(1, grid + 1):
        theta = 1 / y[-1] + (1 - math.sqrt(grid / (j - 0.5))) / (3 * y[int(tail / 4 + 0.5) - 1])
        k = np.mean(np.log(1 - theta * y))
        thetas.append(theta)
        scores.append(tail * (math.log(-theta / k) - k - 1))
    weights = np.exp(np.array(scores) - max(scores))
    theta = np.dot(weights, thetas) / weights.sum()
    return float((tail * np.mean(np.log(1 - theta * y)) + 5) / (tail + 10))


@pytest.mark.parametrize("count", [60, 500, 10_000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_pareto_k_against_a_transcription(count, scale):
    log_weights = scale * np.random.default_rng(count).standard_t(4, count)
    assert pareto_k(torch.from_numpy(log_weights)) == pytest.approx(reference_pareto_k(log_weights), rel=1e-8)


def test_constant_weights():
    log_weights = torch.full((1000,), -3.25, dtype=torch.float64)
    assert effective_sample_size(log_weights) == pytest.approx(1.0, abs=1e-12)
    value, standard_error = log_evidence(log_weights)
    assert value == pytest.approx(-3.25)
    assert standard_error == pytest.approx(0.0, abs=1e-12)
    assert pareto_k(log_weights) == -math.inf


def test_nan_and_minus_infinity_are_weight_zero():
    log_weights = torch.tensor([0.0, math.nan, -math.inf, 0.0])
    assert effective_sample_size(log_weights) == pytest.approx(0.5)
    assert log_evidence(log_weights)[0] == pytest.approx(math.log(0.5))


def test_all_zero_weights():
    log_weights = torch.full((50,), -math.inf)
    assert effective_sample_size(log_weights) == 0.0
    assert log_evidence(log_weights)[0] == -math.inf
    assert pareto_k(log_weights) == math.inf


def test_one_dominating_weight_has_no_trusted_tail():
    log_weights = torch.full((1000,), -math.inf)
    log_weights[17] = 0.0
    assert effective_sample_size(log_weights) == pytest.approx(1e-3)
    assert pareto_k(log_weights) == math.inf


@pytest.mark.parametrize("function", [effective_sample_size, log_evidence, pareto_k])
@pytest.mark.parametrize("bad", [torch.zeros(0), torch.zeros(3, 1), torch.tensor([0.0, math.inf])])
def test_bad_log_weights(function, bad):
    with pytest.raises(ValueError, match=function.__name__):
        function(bad)


class Normal:
    """N(0, scale²) in one dimension, with the two methods that `certify` uses."""

    def __init__(self, scale: float):
        self.scale = scale

    def sample(self, sample_shape, *, generator=None):
        noise = torch.randn((*sample_shape, 1), generator=generator, dtype=torch.float64, device=generator.device)
        return self.scale * noise

    def log_prob(self, value):
        return -0.5 * (value[:, 0] / self.scale) ** 2 - math.log(self.scale * math.sqrt(2 * math.pi))


def test_certify_two_normals(generator):
    """q = N(0, s²), p̃ = 5 N(0, 1): E w² / (E w)² = s² / √(2s² - 1)."""
    scale = 1.2

    def target(x):
        return Normal(1.0).log_prob(x) + math.log(5)

    certificate = certify(Normal(scale), target, num_samples=100_000, generator=generator)
    assert certificate.ess == pytest.approx(math.sqrt(2 * scale**2 - 1) / scale**2, abs=5e-3)
    assert abs(certificate.log_evidence - math.log(5)) < 4 * certificate.standard_error
    assert certificate.pareto_k < 0.5
    assert certificate.num_samples == 100_000


def test_certify_is_reproducible(device):
    first, second = (
        certify(Normal(1.5), Normal(1.0).log_prob, generator=torch.Generator(device).manual_seed(1)) for _ in range(2)
    )
    assert first == second


def test_certify_rejects_a_column(generator):
    with pytest.raises(ValueError, match="Sum over the last dimension"):
        certify(Normal(1.0), lambda x: x, num_samples=10, generator=generator)
