"""Pure functions of tensor trains: evaluation, products, sums, interfaces. Loops run over modes, never over a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .contraction import contract
from .train import TensorTrain

__all__ = [
    "add",
    "evaluate",
    "evaluate_indices",
    "hadamard",
    "inner",
    "left_interfaces",
    "log_inner",
    "norm",
    "ones",
    "right_interfaces",
    "sample_indices",
    "scale",
    "to_dense",
    "unit_scale",
]


def unit_scale(x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Divide ``x`` by its largest entry along ``dims`` (a power of two, so nothing is rounded) and return its log.

    The factor is a constant for autograd: what is taken out here is put back as a logarithm, so gradients are unchanged.

    Args:
        x: any tensor.
        dims: the dimensions that share a factor.

    Returns:
        The scaled tensor, and the logarithms of the factors, with ``dims`` removed.
    """
    peak = x.detach().abs().amax(dims, keepdim=True)
    lowest = torch.finfo(x.dtype).tiny  # below it the factor would overflow
    exponent = torch.where(peak > 0, torch.frexp(peak.clamp_min(lowest)).exponent, 0).to(x.dtype)
    logs = exponent * math.log(2.0)
    return x * torch.exp2(-exponent), logs.squeeze(dims) if isinstance(dims, int) else logs.flatten(-len(dims)).squeeze(
        -1
    )


def evaluate(train: TensorTrain, vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r"""Contract every mode with a vector: :math:`\sum_{i} A_{i_1 \dots i_d} \prod_k v^{(k)}_{i_k}`, batched.

    Cost O(batch · d · n · r²). Differentiable in the cores and in the vectors.

    Args:
        train: an unbatched train.
        vectors: ``d`` tensors of shapes ``(batch, n_k)``.

    Returns:
        Mantissa and logarithmic scale, both of shape ``(batch,)``: the value is ``mantissa * exp(log_scale)``.
    """
    state, logs = None, train.log_scale
    for core, vector in zip(train.cores, vectors, strict=True):
        if state is None:
            state = contract("ns,bn->bs", core[0], vector)
        else:
            state = contract("br,rns,bn->bs", state, core, vector)
        state, log = unit_scale(state, -1)
        logs = logs + log
    assert state is not None
    return state[:, 0], logs.expand(state.shape[0])


def evaluate_indices(train: TensorTrain, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of an unbatched train. Cost O(batch · d · r²).

    Args:
        train: an unbatched train.
        indices: multi-indices, shape ``(batch, d)``.

    Returns:
        Mantissa and logarithmic scale, both of shape ``(batch,)``: the entry is ``mantissa * exp(log_scale)``.

    >>> train = ones([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    >>> mantissa, log_scale = evaluate_indices(train, torch.tensor([[1, 0]]))
    >>> mantissa * log_scale.exp()
    tensor([6.])
    """
    state, logs = None, train.log_scale
    for k, core in enumerate(train.cores):
        chosen = core.transpose(0, 1)[indices[:, k]]
        state = chosen[:, 0] if state is None else (state.unsqueeze(1) @ chosen).squeeze(1)
        state, log = unit_scale(state, -1)
        logs = logs + log
    assert state is not None
    return state[:, 0], logs.expand(state.shape[0])


def to_dense(train: TensorTrain) -> Tensor:
    """The full tensor of an unbatched train, shape ``mode_sizes``.

    >>> to_dense(ones([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    state = train.cores[0][0]
    for core in train.cores[1:]:
        state = torch.tensordot(state, core, 1)
    return state.squeeze(-1) * train.log_scale.exp()


def log_inner(a: TensorTrain, b: TensorTrain) -> tuple[Tensor, Tensor]:
    """Mantissa and log scale of the Frobenius inner product; batch dimensions broadcast. Cost O(d · n · r³)."""
    state = a.cores[0].new_ones(1, 1)
    logs = a.log_scale + b.log_scale
    for left, right in zip(a.cores, b.cores, strict=True):
        # (r,s),(r,n,t),(s,n,u) -> (t,u) as two matrix products.
        half = state.unsqueeze(-3) @ right.transpose(-3, -2)  # (..., n, r, u)
        state = left.flatten(-3, -2).mT @ half.transpose(-3, -2).flatten(-3, -2)
        state, log = unit_scale(state, (-2, -1))
        logs = logs + log
    return state[..., 0, 0], logs


def inner(a: TensorTrain, b: TensorTrain) -> Tensor:
    """Frobenius inner product of two trains of the same mode sizes, of the batch shape. Cost O(d · n · r³).

    Args:
        a, b: trains; batch dimensions broadcast.

    >>> row = ones([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    >>> inner(row, row)
    tensor(125.)
    """
    value, log = log_inner(a, b)
    return value * log.exp()


def norm(train: TensorTrain, *, log: bool = False) -> Tensor:
    """Frobenius norm, of the batch shape, or its logarithm (which neither under- nor overflows). Cost O(d · n · r³).

    Args:
        train: any train.
        log: whether to return the logarithm.

    >>> round(float(norm(ones([torch.tensor([3.0, 4.0])] * 2))), 3)
    25.0
    """
    value, logs = log_inner(train, train)
    result = 0.5 * (torch.log(value) + logs)
    return result if log else result.exp()


def scale(train: TensorTrain, factor: float | Tensor) -> TensorTrain:
    """The train multiplied by a number (its first core is).

    Args:
        train: any train.
        factor: a number, of any sign.
    """
    return TensorTrain((train.cores[0] * factor, *train.cores[1:]), train.log_scale)


def add(a: TensorTrain, b: TensorTrain) -> TensorTrain:
    """The sum of two unbatched trains; ranks add up. Follow with :func:`ttvi.tt.truncate`.

    Args:
        a, b: unbatched trains.

    Raises:
        ValueError: mode sizes differ.

    >>> a = ones([torch.tensor([1.0, 2.0])] * 3)
    >>> add(a, a).ranks
    (1, 2, 2, 1)
    """
    if a.mode_sizes != b.mode_sizes:
        raise ValueError(
            f"add: expected trains of equal mode sizes; got {a.mode_sizes} and {b.mode_sizes}. Refit one on the other's bases."
        )
    top = torch.maximum(a.log_scale, b.log_scale).detach()
    factors = ((a.log_scale - top).exp(), (b.log_scale - top).exp())
    if a.dim == 1:
        return TensorTrain([a.cores[0] * factors[0] + b.cores[0] * factors[1]], top)
    cores = []
    for k, (left, right) in enumerate(zip(a.cores, b.cores, strict=True)):
        if k == 0:
            cores.append(torch.cat([left * factors[0], right * factors[1]], -1))
        elif k == a.dim - 1:
            cores.append(torch.cat([left, right], -3))
        else:
            (r, n, s), (t, _, u) = left.shape, right.shape
            upper = torch.cat([left, left.new_zeros(r, n, u)], -1)
            cores.append(torch.cat([upper, torch.cat([left.new_zeros(t, n, s), right], -1)], -3))
    return TensorTrain(cores, top)


def hadamard(a: TensorTrain, b: TensorTrain) -> TensorTrain:
    """The entrywise product of two unbatched trains; ranks multiply. Follow with :func:`ttvi.tt.truncate`.

    Args:
        a, b: unbatched trains.

    Raises:
        ValueError: mode sizes differ.

    >>> a = ones([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])])
    >>> to_dense(hadamard(a, a))
    tensor([[ 9., 16.],
            [36., 64.]])
    """
    if a.mode_sizes != b.mode_sizes:
        raise ValueError(
            f"hadamard: expected trains of equal mode sizes; got {a.mode_sizes} and {b.mode_sizes}. Refit one on the other's bases."
        )
    cores = []
    for left, right in zip(a.cores, b.cores, strict=True):
        product = contract("rns,tnu->rtnsu", left, right)
        cores.append(product.flatten(0, 1).flatten(-2, -1))
    return TensorTrain(cores, a.log_scale + b.log_scale)


def ones(vectors: Sequence[Tensor]) -> TensorTrain:
    """The rank-one train whose cores are the given vectors, shapes ``(n_k,)``."""
    return TensorTrain([vector[None, :, None] for vector in vectors])


def left_interfaces(train: TensorTrain, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Partial contractions from the left. Cost O(batch · d · n · r²).

    Every entry is scaled to a largest element between a half and one; the log scale of the train is left out.

    Args:
        train: an unbatched train.
        vectors: ``d`` tensors of shapes ``(batch, n_k)``.

    Returns:
        ``d + 1`` tensors: entry ``k`` has shape ``(batch, r_k)`` and covers the first ``k`` modes.
    """
    batch = vectors[0].shape[0]
    states = [train.cores[0].new_ones(batch, 1)]
    for core, vector in zip(train.cores, vectors, strict=True):
        states.append(unit_scale(contract("br,rns,bn->bs", states[-1], core, vector), -1)[0])
    return states


def right_interfaces(train: TensorTrain, vectors: Sequence[Tensor]) -> list[Tensor]:
    """Partial contractions from the right, like :func:`left_interfaces`.

    Args:
        train: an unbatched train.
        vectors: ``d`` tensors of shapes ``(batch, n_k)``.

    Returns:
        ``d + 1`` tensors: entry ``k`` has shape ``(batch, r_k)`` and covers the modes from ``k`` on.
    """
    return left_interfaces(train.reversed(), vectors[::-1])[::-1]


def sample_indices(
    train: TensorTrain, count: int, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Draw multi-indices with probability :math:`A_i^2 / \lVert A \rVert^2`, exactly and independently.

    Args:
        train: an unbatched, right-orthogonal train (see :func:`ttvi.tt.orthogonalize`).
        count: number of draws.
        generator: source of randomness.

    Returns:
        Indices of shape ``(count, d)`` and the logarithms of their probabilities, shape ``(count,)``.

    References:
        Ferris, Vidal: Perfect sampling with unitary tensor networks (2012).
    """
    state = train.cores[0].new_ones(count, 1)
    logs = state.new_zeros(count)
    columns = []
    for core in train.cores:
        r, n, s = core.shape
        options = (state @ core.reshape(r, n * s)).unflatten(-1, (n, s))
        masses = options.square().sum(-1)
        ends = masses.cumsum(-1)
        u = torch.rand(count, 1, dtype=state.dtype, device=state.device, generator=generator)
        index = torch.searchsorted(ends, u * ends[:, -1:], right=True).clamp_(max=n - 1)
        state = options.gather(1, index.unsqueeze(-1).expand(-1, -1, s)).squeeze(1)
        mass = masses.gather(1, index).squeeze(1)
        logs = logs + torch.log(mass / masses.sum(-1))
        state = state / mass.sqrt().unsqueeze(-1)
        columns.append(index)
    return torch.cat(columns, 1), logs
