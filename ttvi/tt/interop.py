"""From values at the nodes, dense or of tntorch, to coefficients; and back to tntorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .basis import Basis
from .train import TensorTrain

__all__ = ["dense_coefficients", "to_tntorch", "train_from_tntorch"]


def dense_coefficients(values: Tensor, bases: Sequence[Basis]) -> Tensor:
    """Values at all nodes, shape ``(n_1, ..., n_d)``, times the square roots of the weights: the coefficient tensor."""
    for k, basis in enumerate(bases):
        root = basis.weights(dtype=values.dtype, device=values.device).sqrt()
        values = values * root.view(-1, *[1] * (values.dim() - 1 - k))
    return values


def train_from_tntorch(tensor: Any, bases: Sequence[Basis], caller: str) -> TensorTrain:
    """The coefficients of the function whose values at the nodes are a ``tntorch.Tensor``.

    Args:
        tensor: a tntorch tensor with TT cores; Tucker factors are absorbed.
        bases: one per dimension, of its size.
        caller: public name used in error messages.

    Raises:
        TypeError: it is no tntorch tensor, or has CP cores.
        ValueError: numbers or sizes of dimensions and bases differ.
    """
    cores, factors = getattr(tensor, "cores", None), getattr(tensor, "Us", None)
    if cores is None or factors is None or any(core.dim() != 3 for core in cores):
        raise TypeError(
            f"{caller}: expected a tntorch.Tensor with TT cores; got {type(tensor).__name__}. Decompose it with ranks_tt=."
        )
    plain = [
        core
        if factor is None
        else (factor @ core.transpose(0, 1).flatten(1)).unflatten(1, (core.shape[0], -1)).transpose(0, 1)
        for core, factor in zip(cores, factors, strict=True)
    ]
    if len(plain) != len(bases) or any(c.shape[1] != b._require_size() for c, b in zip(plain, bases)):
        raise ValueError(
            f"{caller}: expected one basis per dimension of its size; got shape {tuple(c.shape[1] for c in plain)} and "
            f"{tuple(b.size for b in bases)}. Evaluate the tensor at the nodes of the bases."
        )
    roots = [b.weights(dtype=c.dtype, device=c.device).sqrt()[:, None] for c, b in zip(plain, bases, strict=True)]
    return TensorTrain([core * root for core, root in zip(plain, roots, strict=True)])


def to_tntorch(train: TensorTrain) -> Any:
    """A ``tntorch.Tensor`` with the same entries; the log scale is spread over the cores."""
    import tntorch

    factor = (train.log_scale / train.dim).exp()
    return tntorch.Tensor([core * factor for core in train.cores])
