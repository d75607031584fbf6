"""Metropolis-Hastings and resampling on a finite set, where the answer is a vector of probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from ttvi.corrected import independence_chains, log_ratio, resample

P = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
Q = torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64)


def test_chains_forget_their_start(generator):
    """All chains start at the point of the largest weight, the worst; after 60 steps (1 − 1/7)^60 = 1e-4 of it is left."""
    p, q = P.to(generator.device), Q.to(generator.device)
    proposals = torch.multinomial(q, 61 * 20_000, replacement=True, generator=generator).view(61, 20_000)
    proposals[0] = 2
    path = independence_chains((p / q).log()[proposals], generator=generator)
    assert path.shape == (60, 20_000)
    found = proposals.gather(0, path)
    for step, tolerance in ((59, 0.01), (0, None)):
        shares = torch.bincount(found[step], minlength=3) / 20_000
        gap = float((shares.double() - p).abs().max())
        assert gap < tolerance if tolerance else gap > 0.1


def test_one_step_keeps_the_target(generator):
    """Started from p, a chain stays at p: the two-step law of one transition is symmetric."""
    p, q = P.to(generator.device), Q.to(generator.device)
    start = torch.multinomial(p, 200_000, replacement=True, generator=generator)
    moved = torch.multinomial(q, 200_000, replacement=True, generator=generator)
    states = torch.stack([start, moved])
    path = independence_chains((p / q).log()[states], generator=generator)
    after = states.gather(0, path)[0]
    joint = torch.bincount(3 * start + after, minlength=9).view(3, 3) / 200_000
    torch.testing.assert_close(joint, joint.mT, rtol=0, atol=5e-3)
    torch.testing.assert_close(joint.sum(0).double(), p, rtol=0, atol=5e-3)


def test_weights_of_zero():
    inf = math.inf
    path = independence_chains(torch.tensor([[-inf, 0.0], [-inf, -inf], [0.0, -inf]], dtype=torch.float64))
    assert path.tolist() == [[0, 0], [2, 0]]


def test_resampling_repeats_as_weights_ask(generator):
    weights = torch.rand(50, dtype=torch.float64, generator=generator, device=generator.device)
    counts = torch.bincount(resample(weights, 1000, generator=generator), minlength=50)
    expected = 1000 * weights / weights.sum()
    assert bool(((counts >= expected.floor()) & (counts <= expected.ceil())).all())


def test_resampling_is_unbiased_and_shuffled(generator):
    weights = torch.tensor([0.45, 0.0, 0.3, 0.25], device=generator.device)
    chosen = torch.stack([resample(weights, 2, generator=generator) for _ in range(4000)])
    for place in range(2):
        shares = torch.bincount(chosen[:, place], minlength=4) / 4000
        torch.testing.assert_close(shares, weights, rtol=0, atol=0.03)


def test_log_ratio_knows_no_nan():
    x = torch.zeros(4, 1)
    target = torch.tensor([0.0, math.nan, math.inf, -math.inf])
    value = log_ratio(x, lambda y: target, lambda y: torch.full((4,), -1.0), "sample")
    assert value.tolist() == [1.0, -math.inf, -math.inf, -math.inf]
    with pytest.raises(ValueError, match=r"sample: expected `log_density` to return shape \(4,\); got \(4, 1\)"):
        log_ratio(x, lambda y: y, lambda y: y[:, 0], "sample")
