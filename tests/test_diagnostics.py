"""Log-weights with known answers: log-normal, Pareto, constant, partly zero."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from ttvi.diagnostics import (
    bridge_log_evidence,
    certify,
    draw_weights,
    effective_sample_size,
    expected_kl,
    log_evidence,
    pareto_k,
    smooth_log_weights,
)


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


@pytest.mark.parametrize("function", [effective_sample_size, log_evidence, pareto_k, smooth_log_weights, expected_kl])
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


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.7])
def test_smoothing_pareto_weights_leaves_them(shape):
    """The tail of exact Pareto quantiles is its own generalised Pareto fit."""
    log_weights = torch.from_numpy(-shape * np.log1p(-quantiles(100_000)))
    smoothed, k = smooth_log_weights(log_weights)
    assert k == pareto_k(log_weights)
    assert float((smoothed - log_weights)[:-1000].abs().max()) == 0.0
    assert float((smoothed - log_weights)[-900:-10].abs().max()) < 0.05
    assert float(smoothed.max()) <= float(log_weights.max())


def test_smoothing_lowers_the_error_of_a_mean(generator):
    """E over p = exponential of rate 1 by draws of rate 1.7: w ~ Pareto with k = 0.41, E_p x = 1."""
    errors = {"raw": [], "smoothed": []}
    for _ in range(300):
        u = torch.rand(400, dtype=torch.float64, generator=generator, device=generator.device)
        x = -torch.log1p(-u) / 1.7
        log_weights = 0.7 * x + 1000.0
        smoothed, _ = smooth_log_weights(log_weights[torch.randperm(400, generator=generator, device=x.device)])
        order = log_weights.argsort()
        for name, values in (("raw", log_weights[order]), ("smoothed", smoothed.sort().values)):
            errors[name].append(float((torch.softmax(values, 0) * x[order]).sum()) - 1)
    assert np.square(errors["smoothed"]).mean() < 0.8 * np.square(errors["raw"]).mean()


def test_smoothing_without_a_tail_changes_nothing():
    for log_weights in (torch.zeros(1000), torch.tensor([0.0, math.nan, -math.inf]), torch.full((9,), -math.inf)):
        smoothed, k = smooth_log_weights(log_weights)
        assert math.isinf(k)
        assert torch.equal(smoothed, torch.where(log_weights.isnan(), -math.inf, log_weights).double())


def test_expected_kl_of_normals():
    """q = N(0, s²), p = N(0, 1): KL = (s² − 1)/2 − log s; a constant in log p̃ cancels."""
    scale = 1.3
    x = torch.from_numpy(scale * scipy.stats.norm.ppf(quantiles(200_000)))
    log_weights = -0.5 * x**2 + 0.5 * (x / scale) ** 2 + math.log(scale) - 42.0
    assert expected_kl(log_weights) == pytest.approx((scale**2 - 1) / 2 - math.log(scale), abs=1e-3)
    assert expected_kl(torch.tensor([0.0, -math.inf])) == math.inf
    assert math.isnan(expected_kl(torch.full((3,), -math.inf)))


class SobolNormal(Normal):
    """The same with scrambled Sobol points."""

    def sample(self, sample_shape, *, generator=None, sobol=False):
        if not sobol:
            return super().sample(sample_shape, generator=generator)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        u = torch.quasirandom.SobolEngine(1, scramble=True, seed=seed).draw(sample_shape[0], dtype=torch.float64)
        u = u.clamp(1e-12, 1 - 1e-12)
        return (self.scale * math.sqrt(2) * torch.erfinv(2 * u - 1)).to(generator.device)


def test_sobol_nets_lower_the_error_and_say_so(generator):
    """log Z = 0; over 40 repetitions the spread agrees with the standard error of the replicates."""
    target = Normal(1.0).log_prob
    found = [
        certify(SobolNormal(1.2), target, num_samples=2048, generator=generator, sobol=True, replicates=8)
        for _ in range(40)
    ]
    plain = certify(SobolNormal(1.2), target, num_samples=2048, generator=generator)
    spread = math.sqrt(np.mean([one.log_evidence**2 for one in found]))
    error = math.sqrt(np.mean([one.standard_error**2 for one in found]))
    assert error == pytest.approx(spread, rel=0.35)
    assert error < plain.standard_error / 5
    assert found[0].ess == pytest.approx(plain.ess, abs=0.05)


def test_nan_and_infinity_of_the_target_are_counted(generator):
    def target(x):
        value = Normal(1.0).log_prob(x)
        return torch.where(x[:, 0] > 1.5, math.nan, torch.where(x[:, 0] < -2.5, math.inf, value))

    draws = draw_weights(Normal(1.0), target, num_samples=1000, generator=generator)
    assert draws.num_nan == int((draws.x[:, 0] > 1.5).sum()) > 0
    assert draws.num_infinite == int((draws.x[:, 0] < -2.5).sum()) > 0
    certificate = draws.certificate()
    assert certificate.num_invalid == draws.num_nan + draws.num_infinite
    assert certificate.log_evidence == pytest.approx(math.log(1 - certificate.num_invalid / 1000), abs=1e-12)


@pytest.mark.parametrize(("num_samples", "replicates"), [(10, 8), (100, 1)])
def test_nets_must_be_worth_it(generator, num_samples, replicates):
    with pytest.raises(ValueError, match="at least 2 nets of at least 2 points"):
        certify(
            SobolNormal(1.0),
            Normal(1.0).log_prob,
            num_samples=num_samples,
            generator=generator,
            sobol=True,
            replicates=replicates,
        )


def test_replicates_must_divide_the_weights():
    with pytest.raises(ValueError, match="divide 10 log-weights; got 3"):
        log_evidence(torch.zeros(10), replicates=3)


# -- bridge sampling -----------------------------------------------------------------------------------------------------


def test_bridge_sampling_of_two_normals():
    """log Z = 3 between q = N(0, 1) and p = N(0.5, 1.3²), with an error as large as it says: twenty seeds."""
    q, p = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.5, 1.3)

    def ratio(x: torch.Tensor) -> torch.Tensor:
        return 3.0 + p.log_prob(x) - q.log_prob(x)

    found = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 4000, generator=generator, dtype=torch.float64)
        found.append(bridge_log_evidence(ratio(x), ratio(0.5 + 1.3 * y)))
    values, errors = torch.tensor(found, dtype=torch.float64).T
    assert float(errors.mean()) < 0.02
    assert 0.6 < float((values - 3.0).std() / errors.mean()) < 1.5
    assert abs(float(values.mean()) - 3.0) < 3 * float(errors.mean()) / math.sqrt(20)


def test_bridge_sampling_sees_what_no_draw_sees():
    """q is p without a part of four per cent: its weights are all equal, and too small."""
    generator = torch.Generator().manual_seed(0)
    inside = math.log(0.96)
    population = torch.rand(4000, generator=generator, dtype=torch.float64) < 0.96
    at_population = torch.where(population, inside, 400.0)
    own = torch.full((8000,), inside, dtype=torch.float64)
    assert log_evidence(own)[0] == pytest.approx(inside)
    value, error = bridge_log_evidence(own, at_population, independent=1000)
    assert value == pytest.approx(0.0, abs=0.01)
    assert error == pytest.approx(math.sqrt(0.04 / 0.96 / 1000), rel=0.1)
    nothing, unknown = bridge_log_evidence(torch.full((10,), -math.inf), at_population)
    assert nothing == -math.inf
    assert math.isnan(unknown)
    with pytest.raises(ValueError, match="bridge_log_evidence"):
        bridge_log_evidence(own, at_population[:0])
