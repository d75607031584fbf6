"""Weighted expectations against closed forms, and their standard errors against the spread over repetitions."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch

from ttvi.estimates import (
    Estimate,
    circular_moments,
    evaluated,
    weighted_covariance,
    weighted_expectation,
    weighted_quantile,
    weighted_variance,
)

CONTINUOUS = torch.tensor([False, False])


def weighted_normals(generator, count=2000):
    """Draws of N(0, 1.3² I) with normalised weights for N((0.4, 0), I)."""
    x = 1.3 * torch.randn(count, 2, dtype=torch.float64, generator=generator, device=generator.device)
    centre = torch.tensor([0.4, 0.0], dtype=torch.float64, device=x.device)
    log_weights = -0.5 * (x - centre).square().sum(-1) + 0.5 * (x / 1.3).square().sum(-1)
    return x, torch.softmax(log_weights, 0)


def test_equal_weights_give_the_plain_estimates(generator):
    x = torch.randn(501, 2, dtype=torch.float64, generator=generator, device=generator.device)
    w = torch.full((501,), 1 / 501, dtype=torch.float64, device=x.device)
    mean, error = weighted_expectation(x, w)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(error, x.std(0, correction=0) / math.sqrt(501))
    torch.testing.assert_close(weighted_variance(x, w)[0], x.var(0, correction=0))
    torch.testing.assert_close(weighted_covariance(x, w)[0], torch.cov(x.mT, correction=0))
    median, _ = weighted_quantile(x, w, torch.tensor([0.5]), CONTINUOUS.to(x.device))
    torch.testing.assert_close(median[0], x.median(0).values)


def test_covariance_errors_against_the_definition(generator):
    x, w = weighted_normals(generator, 100)
    value, error = weighted_covariance(x, w)
    c = x - w @ x
    terms = c[:, :, None] * c[:, None, :]
    direct = ((w.square()[:, None, None]) * (terms - value).square()).sum(0).sqrt()
    torch.testing.assert_close(error, direct)
    torch.testing.assert_close(error.diagonal(), weighted_variance(x, w)[1])


def test_quantile_errors_against_the_definition(generator):
    x, w = weighted_normals(generator, 100)
    levels = torch.tensor([0.05, 0.5], dtype=torch.float64)
    values, _ = weighted_quantile(x, w, levels, torch.tensor([True, True]))
    for q, level in enumerate(levels):
        for k in range(2):
            below = (x[:, k] <= values[q, k]).double()
            assert float(w @ below) >= level
            assert float(w @ (x[:, k] < values[q, k]).double()) < level


def test_standard_errors_are_the_spread_over_repetitions(generator):
    """Truth: mean 0.4, variance 1, covariance 0, quantiles of the normal."""
    levels = torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
    truth = {
        "mean": torch.tensor([0.4, 0.0], dtype=torch.float64),
        "covariance": torch.eye(2, dtype=torch.float64),
        "quantile": torch.from_numpy(scipy.stats.norm.ppf(levels)[:, None] + np.array([0.4, 0.0])),
    }
    found = {name: [] for name in truth}
    for _ in range(200):
        x, w = weighted_normals(generator)
        found["mean"].append(weighted_expectation(x, w))
        found["covariance"].append(weighted_covariance(x, w))
        found["quantile"].append(weighted_quantile(x, w, levels, CONTINUOUS.to(x.device)))
    for name, pairs in found.items():
        values, errors = (torch.stack(part).cpu() for part in zip(*pairs))
        spread = (values - truth[name]).square().mean(0).sqrt()
        torch.testing.assert_close(errors.mean(0), spread, rtol=0.25, atol=0)


def test_quantiles_of_finite_values():
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    levels = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1.0])
    assert weighted_quantile(x, w, levels, torch.tensor([True]))[0].flatten().tolist() == [0, 0, 1, 1, 2, 2]


def test_one_draw():
    x, w = torch.tensor([[3.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    value, error = weighted_quantile(x, w, torch.tensor([0.1, 0.9]), torch.tensor([False]))
    assert value.flatten().tolist() == [3.0, 3.0]
    assert error.flatten().tolist() == [0.0, 0.0]


def test_draws_of_weight_zero_do_not_matter(generator):
    x, w = weighted_normals(generator, 200)
    more, zeros = torch.cat([x, 1e3 * torch.ones_like(x)]), torch.cat([w, torch.zeros_like(w)])
    levels = torch.tensor([0.0, 0.3, 0.99])
    flags = CONTINUOUS.to(x.device)
    torch.testing.assert_close(
        weighted_quantile(more, zeros, levels, flags)[0][:2], weighted_quantile(x, w, levels, flags)[0][:2]
    )


def test_circular_moments_of_a_von_mises(generator):
    """R = I₁(κ)/I₀(κ); the mean direction 3 lies next to the cut."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.vonmises(3.0, 4.0, 100_000))
    w = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    mean, sd = circular_moments(x, w, -math.pi, math.pi)
    length = scipy.special.i1(4.0) / scipy.special.i0(4.0)
    assert mean == pytest.approx(3.0, abs=0.01)
    assert sd == pytest.approx(math.sqrt(-2 * math.log(length)), rel=0.02)
    degrees = circular_moments(torch.rad2deg(x) % 360, w, 0.0, 360.0)
    assert degrees == pytest.approx((math.degrees(mean), math.degrees(sd)))


def test_estimates_answer_to_names():
    value = Estimate.of(torch.arange(6.0).view(2, 3), torch.ones(2, 3), {"a": 0, "b": slice(1, 3)})
    assert value["a"].tolist() == [0.0, 3.0]
    assert value["b"].shape == (2, 2)
    assert value["b"].standard_error.shape == (2, 2)
    assert type(value[0]) is torch.Tensor
    assert type(value * 2) is torch.Tensor
    assert value.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert value[:, 1].tolist() == [1.0, 4.0]
    assert "Estimate" in repr(value)
    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other["b"].standard_error.shape == (2, 2)
        assert torch.equal(other + 0, value + 0)
    square = Estimate.of(torch.arange(9.0).view(3, 3), torch.ones(3, 3), {"a": 0, "c": 2})
    assert float(square["c", "a"]) == 6.0
    with pytest.raises(KeyError, match="expected one of a, c; got 'z'"):
        square["z"]


def test_functions_must_give_a_value_per_draw():
    x = torch.zeros(5, 2)
    assert evaluated(lambda y: y[:, 0] > 0, x).dtype == torch.float32
    for function in (lambda y: y.sum(), lambda y: 3.0, lambda y: y.mT):
        with pytest.raises(ValueError, match=r"expected `function` to return a tensor of shape \(5, ...\)"):
            evaluated(function, x)
