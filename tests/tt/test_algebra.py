"""Every operation of a train against the dense tensor."""

import math

import pytest
import scipy.stats
import torch
from cases import random_train
from torch.autograd import gradcheck

from ttvi.tt import (
    TensorTrain,
    add,
    evaluate,
    evaluate_indices,
    hadamard,
    inner,
    left_interfaces,
    norm,
    orthogonalize,
    right_interfaces,
    scale,
    to_dense,
)
from ttvi.tt.algebra import log_inner, ones, sample_indices, unit_scale

TRAINS = {
    "1": random_train((5,), (), seed=1, log_scale=0.4),
    "2": random_train((3, 4), (2,), seed=2, log_scale=-1.0),
    "4": random_train((3, 2, 5, 4), (2, 3, 4), seed=3, log_scale=0.7),
    "4-rank-1": random_train((3, 2, 5, 4), (1, 1, 1), seed=4),
}
EVERY = pytest.mark.parametrize("train", TRAINS.values(), ids=TRAINS)


def dense_reference(train):
    """The full tensor by one einsum over all cores."""
    operands = []
    for k, core in enumerate(train.cores):
        operands += [core, [2 * k, 2 * k + 1, 2 * k + 2]]
    modes = [2 * k + 1 for k in range(train.dim)]
    return torch.einsum(*operands, [0, *modes, 2 * train.dim])[0, ..., 0] * math.exp(train.log_scale)


def vectors_for(train, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, n, generator=generator, dtype=torch.float64) for n in train.mode_sizes]


@EVERY
def test_to_dense(train):
    torch.testing.assert_close(to_dense(train), dense_reference(train))


@EVERY
def test_evaluate(train):
    vectors = vectors_for(train, 6)
    expected = dense_reference(train)
    expected = expected.expand(6, *expected.shape)
    for vector in vectors:
        expected = torch.einsum("bn...,bn->b...", expected, vector)
    value, log = evaluate(train, vectors)
    assert value.shape == log.shape == (6,)
    torch.testing.assert_close(value * log.exp(), expected)


@EVERY
def test_evaluate_indices(train):
    indices = torch.cartesian_prod(*[torch.arange(n) for n in train.mode_sizes]).view(-1, train.dim)
    value, log = evaluate_indices(train, indices)
    torch.testing.assert_close(value * log.exp(), dense_reference(train).flatten())


@EVERY
def test_inner_and_norm(train):
    other = random_train(train.mode_sizes, tuple(r + 1 for r in train.ranks[1:-1]), seed=9, log_scale=0.2)
    torch.testing.assert_close(inner(train, other), (dense_reference(train) * dense_reference(other)).sum())
    torch.testing.assert_close(norm(train), dense_reference(train).norm())
    torch.testing.assert_close(norm(train, log=True), dense_reference(train).norm().log())


@EVERY
def test_add_hadamard_scale(train):
    other = random_train(train.mode_sizes, tuple(r + 1 for r in train.ranks[1:-1]), seed=9, log_scale=3.0)
    total, product = add(train, other), hadamard(train, other)
    torch.testing.assert_close(dense_reference(total), dense_reference(train) + dense_reference(other))
    torch.testing.assert_close(dense_reference(product), dense_reference(train) * dense_reference(other))
    assert total.ranks[1:-1] == tuple(r + s for r, s in zip(train.ranks[1:-1], other.ranks[1:-1]))
    assert product.ranks == tuple(r * s for r, s in zip(train.ranks, other.ranks))
    torch.testing.assert_close(dense_reference(scale(train, -2.5)), -2.5 * dense_reference(train))


def test_add_and_hadamard_refuse_other_sizes():
    a, b = random_train((2, 3), (2,)), random_train((3, 2), (2,))
    with pytest.raises(ValueError, match=r"add: expected trains of equal mode sizes; got \(2, 3\) and \(3, 2\)"):
        add(a, b)
    with pytest.raises(ValueError, match=r"hadamard: expected trains of equal mode sizes"):
        hadamard(a, b)


def test_ones_is_the_outer_product():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    torch.testing.assert_close(to_dense(ones([a, b])), torch.outer(a, b))


@EVERY
def test_interfaces_meet_at_every_cut(train):
    vectors = vectors_for(train, 4)
    left, right = left_interfaces(train, vectors), right_interfaces(train, vectors)
    value, _ = evaluate(train, vectors)
    for k in range(train.dim + 1):
        assert left[k].shape == right[k].shape == (4, train.ranks[k])
        # Scaled by powers of two only, so the direction and the sign are those of the unscaled product.
        product = (left[k] * right[k]).sum(1)
        ratio = product / value
        exponent = torch.log2(ratio)
        torch.testing.assert_close(exponent, exponent.round(), atol=1e-9, rtol=0)


def test_left_interface_is_the_partial_contraction():
    train = TRAINS["4"]
    vectors = vectors_for(train, 3)
    expected = torch.einsum("ans,bn->bs", train.cores[0], vectors[0])
    expected = torch.einsum("br,rns,bn->bs", expected, train.cores[1], vectors[1])
    got = left_interfaces(train, vectors)[2]
    torch.testing.assert_close(got / got.norm(dim=1, keepdim=True), expected / expected.norm(dim=1, keepdim=True))
    peak = got.abs().amax(1)
    assert ((peak >= 0.5) & (peak < 1)).all()


def test_unit_scale_takes_out_powers_of_two():
    x = torch.tensor([[3.0, -12.0], [0.0, 0.0], [1e-300, 0.0]], dtype=torch.float64)
    scaled, log = unit_scale(x, -1)
    assert scaled[0].tolist() == [3 / 16, -12 / 16]
    assert scaled[1].tolist() == [0, 0]
    torch.testing.assert_close(
        log, torch.tensor([math.log(16), 0.0, math.log(1e-300 / float(scaled[2, 0]))], dtype=torch.float64)
    )
    assert unit_scale(torch.ones(2, 3, 4), (-2, -1))[1].shape == (2,)


@pytest.mark.parametrize("entry", [1e-3, 1e3], ids=["tiny", "huge"])
def test_long_chains_neither_underflow_nor_overflow(entry):
    # The tensor of d = 600 modes whose entries are all entry^600: norm = (sqrt(2) entry)^600, far outside of float64.
    d = 600
    train = TensorTrain([torch.full((1, 2, 1), entry, dtype=torch.float64)] * d)
    expected = d * (0.5 * math.log(2) + math.log(entry))
    assert abs(expected) > 709
    torch.testing.assert_close(float(norm(train, log=True)), expected, rtol=1e-12, atol=0)
    value, log = log_inner(train, train)
    torch.testing.assert_close(float(value.log() + log), 2 * expected, rtol=1e-12, atol=0)
    value, log = evaluate(train, [torch.ones(3, 2, dtype=torch.float64)] * d)
    torch.testing.assert_close((value.log() + log).tolist(), [d * math.log(2 * entry)] * 3, rtol=1e-12, atol=0)
    value, log = evaluate_indices(train, torch.zeros(2, d, dtype=torch.long))
    torch.testing.assert_close((value.log() + log).tolist(), [d * math.log(entry)] * 2, rtol=1e-12, atol=0)
    centered = orthogonalize(train, 300)
    torch.testing.assert_close(float(norm(centered, log=True)), expected, rtol=1e-12, atol=0)


def test_norm_of_a_product_far_below_the_smallest_number():
    train = random_train((2,) * 60, (2,) * 59, seed=5, log_scale=-2000.0)
    product = hadamard(train, train)
    reference = norm(
        hadamard(random_train((2,) * 60, (2,) * 59, seed=5), random_train((2,) * 60, (2,) * 59, seed=5)), log=True
    )
    torch.testing.assert_close(norm(product, log=True), reference - 4000.0)
    assert float(norm(product)) == 0.0


def test_batched_inner_and_norm():
    train = random_train((3, 4, 2), (2, 3), batch=(5,), seed=6)
    members = [TensorTrain([core[b] for core in train.cores]) for b in range(5)]
    torch.testing.assert_close(norm(train), torch.stack([dense_reference(m).norm() for m in members]))
    other = random_train((3, 4, 2), (1, 2), seed=7)
    torch.testing.assert_close(
        inner(train, other), torch.stack([(dense_reference(m) * dense_reference(other)).sum() for m in members])
    )


def test_sample_indices_chi_square():
    train = orthogonalize(TRAINS["4"])
    probabilities = dense_reference(train).square()
    probabilities = (probabilities / probabilities.sum()).flatten()
    indices, logs = sample_indices(train, 40_000, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(len(indices), dtype=torch.long)
    for k, n in enumerate(train.mode_sizes):
        flat = flat * n + indices[:, k]
    torch.testing.assert_close(logs, probabilities[flat].log())
    common = probabilities > 5 / len(flat)
    observed = torch.bincount(flat, minlength=probabilities.numel()).double()
    observed = torch.cat([observed[common], observed[~common].sum()[None]])
    expected = len(flat) * torch.cat([probabilities[common], probabilities[~common].sum()[None]])
    assert scipy.stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-4


def test_sample_indices_follows_the_generator():
    train = orthogonalize(TRAINS["4"])
    first, second = (sample_indices(train, 50, generator=torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_gradients():
    train = random_train((2, 3, 2), (2, 2), seed=8)
    vectors = [v.requires_grad_() for v in vectors_for(train, 3)]
    cores = [core.clone().requires_grad_() for core in train.cores]

    def value(*tensors):
        result, log = evaluate(TensorTrain(tensors[:3], 0.2), tensors[3:])
        return result * log.exp()

    def log_norm(*tensors):
        return norm(TensorTrain(tensors), log=True)

    assert gradcheck(value, (*cores, *vectors))
    assert gradcheck(log_norm, cores)
