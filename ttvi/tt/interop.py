"""Trains to and from tntorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .train import TensorTrain

__all__ = ["cores_from_tntorch", "to_tntorch"]


def cores_from_tntorch(tensor: Any, caller: str) -> list[Tensor]:
    """The cores of a ``tntorch.Tensor``, Tucker factors absorbed.

    Raises:
        TypeError: it is no tntorch tensor, or has CP cores.
    """
    cores, factors = getattr(tensor, "cores", None), getattr(tensor, "Us", None)
    if cores is None or factors is None or any(core.dim() != 3 for core in cores):
        raise TypeError(
            f"{caller}: expected a tntorch.Tensor with TT cores; got {type(tensor).__name__}. Decompose it with ranks_tt=."
        )
    return [
        core
        if factor is None
        else (factor @ core.transpose(0, 1).flatten(1)).unflatten(1, (core.shape[0], -1)).transpose(0, 1)
        for core, factor in zip(cores, factors, strict=True)
    ]


def to_tntorch(train: TensorTrain) -> Any:
    """A ``tntorch.Tensor`` with the same entries; the log scale is spread over the cores."""
    import tntorch

    factor = (train.log_scale / train.dim).exp()
    return tntorch.Tensor([core * factor for core in train.cores])
