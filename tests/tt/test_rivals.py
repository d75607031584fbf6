"""Which of two trains is nearer, and what a fit that wanders returns."""

import math

import pytest
import torch

from ttvi.errors import ConvergenceWarning
from ttvi.tt import Legendre, TTDensity
from ttvi.tt.algebra import evaluate_indices, sample_indices, to_dense
from ttvi.tt.canonical import orthogonalize
from ttvi.tt.rivals import misfits
from ttvi.tt.train import TensorTrain


def rank_one(*vectors, log_scale=0.0):
    return TensorTrain([v.double()[None, :, None] for v in vectors], log_scale)


def peak(at, n=9, width=0.7):
    return (-((torch.arange(n) - at) ** 2) / (2 * width**2)).exp()


def coefficients_of(dense):
    return lambda indices: (dense[tuple(indices.T)], torch.zeros(len(indices), dtype=dense.dtype))


def sine(f, g):
    return math.sqrt(max(0.0, 1 - float((f * g).sum() / (f.norm() * g.norm())) ** 2))


@pytest.mark.parametrize("log_scale", [0.0, 900.0, -900.0])
def test_a_train_that_lacks_a_mode_is_far(log_scale):
    """Whatever the train is multiplied by, and although none of its own draws is wrong."""
    one, other = to_dense(rank_one(peak(2), peak(2))), to_dense(rank_one(peak(6), peak(6)))
    function = one + 0.9 * other
    lacking = rank_one(peak(2), peak(2), log_scale=log_scale)
    crooked = rank_one(peak(2) + 0.7 * peak(6), peak(2) + 0.7 * peak(6))
    trains = (lacking, crooked)
    draws = [
        sample_indices(orthogonalize(t), 4000, generator=torch.Generator().manual_seed(k))[0]
        for k, t in enumerate(trains)
    ]
    found = misfits(trains, draws, coefficients_of(function))
    exact = [sine(function, to_dense(t)) for t in (rank_one(peak(2), peak(2)), crooked)]
    assert found == pytest.approx(exact, abs=0.03)
    alone = misfits(trains[:1], draws[:1], coefficients_of(function))
    assert alone[0] < 0.1 < found[0]


def test_what_it_is_of_itself_is_nothing():
    train = rank_one(peak(3), peak(5))
    draws, _ = sample_indices(orthogonalize(train), 50, generator=torch.Generator().manual_seed(0))
    assert misfits([train], [draws], lambda i: evaluate_indices(train, i)) == pytest.approx([0.0], abs=1e-7)


@pytest.mark.parametrize("seed", [4, 5])
def test_a_fit_that_wanders_returns_the_best_it_had(seed):
    """At a cap of the ranks that is too low half-sweeps go up and down: the last one of these had half the effective share."""
    a = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    precision = a @ a.T + torch.eye(8)
    with pytest.warns(ConvergenceWarning, match="rank-limited"):
        density = TTDensity.fit(
            lambda x: -0.5 * ((x @ precision) * x).sum(1), [Legendre(-3.0, 3.0, size=16)] * 8,
            tol=1e-4, max_rank=6, seed=seed,
        )  # fmt: skip
    errors = [record.error for record in density.info.history if record.error is not None]
    assert density.info.error < 1.1 * min(errors)  # the error between the nodes is another sample
