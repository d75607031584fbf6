"""The value object: a chain of cores and a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TensorTrain"]


@dataclass(frozen=True, init=False, eq=False)
class TensorTrain:
    r"""A tensor in the train format, :math:`A_{i_1 \dots i_d} = e^{s}\, C_1[i_1]\, C_2[i_2] \cdots C_d[i_d]`.

    An immutable value: the functions of :mod:`ttvi.tt.algebra` and :mod:`ttvi.tt.canonical` take trains and return new
    ones. Cores may carry leading batch dimensions (the same for all, or broadcastable), a batch of trains at once.

    Args:
        cores: ``d`` tensors of shapes ``(..., r_{k-1}, n_k, r_k)`` with ``r_0 = r_d = 1``, one dtype and device.
        log_scale: the scalar ``s`` (or one per member of the batch); keeps long chains from under- or overflowing.

    Raises:
        ValueError: shapes do not chain.

    References:
        Oseledets: Tensor-train decomposition (2011).

    >>> train = TensorTrain([torch.ones(1, 2, 3), torch.ones(3, 4, 1)])
    >>> train.mode_sizes, train.ranks
    ((2, 4), (1, 3, 1))
    """

    cores: tuple[Tensor, ...]
    log_scale: Tensor

    def __init__(self, cores: Sequence[Tensor], log_scale: Tensor | float = 0.0) -> None:
        cores = tuple(cores)
        _check_chain(cores)
        scale = torch.as_tensor(log_scale, dtype=cores[0].dtype, device=cores[0].device)
        object.__setattr__(self, "cores", cores)
        object.__setattr__(self, "log_scale", scale)

    @property
    def dim(self) -> int:
        """Number of modes."""
        return len(self.cores)

    @property
    def mode_sizes(self) -> tuple[int, ...]:
        """Number of entries along every mode."""
        return tuple(core.shape[-2] for core in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ``d + 1`` ranks, the outer ones included."""
        return (self.cores[0].shape[-3], *(core.shape[-1] for core in self.cores))

    @property
    def batch_shape(self) -> torch.Size:
        """Leading dimensions shared by all cores."""
        shapes = [core.shape[:-3] for core in self.cores]
        return torch.broadcast_shapes(*shapes, self.log_scale.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the cores."""
        return self.cores[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the cores."""
        return self.cores[0].device

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores together."""
        return sum(core.numel() for core in self.cores)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> TensorTrain:
        """The same train in another dtype or on another device."""
        return TensorTrain(
            [core.to(dtype=dtype, device=device) for core in self.cores], self.log_scale.to(dtype=dtype, device=device)
        )

    def reversed(self) -> TensorTrain:
        """The train of the tensor with its modes in the opposite order (a view: nothing is copied)."""
        return TensorTrain([core.transpose(-1, -3) for core in reversed(self.cores)], self.log_scale)

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"TensorTrain(mode_sizes={_short(self.mode_sizes)}, ranks={_short(self.ranks)}{batch})"


def _short(values: tuple[int, ...]) -> str:
    if len(values) <= 12:
        return str(values)
    return f"({', '.join(map(str, values[:4]))}, ..., {', '.join(map(str, values[-3:]))})"


def _check_chain(cores: tuple[Tensor, ...]) -> None:
    shapes = [tuple(core.shape) for core in cores]
    if not cores or any(len(shape) < 3 for shape in shapes):
        raise ValueError(
            f"TensorTrain: expected at least one core of shape (r, n, s); got shapes {shapes}. Add the rank dimensions."
        )
    if shapes[0][-3] != 1 or shapes[-1][-1] != 1:
        raise ValueError(
            f"TensorTrain: expected outer ranks 1; got {shapes[0][-3]} and {shapes[-1][-1]}. Close the ends with size-1 ranks."
        )
    for k, (left, right) in enumerate(zip(shapes, shapes[1:], strict=False)):
        if left[-1] != right[-3]:
            raise ValueError(
                f"TensorTrain: expected cores {k} and {k + 1} to share a rank; got {left[-1]} and {right[-3]}. Check the order of the cores."
            )
    if len({core.dtype for core in cores}) > 1 or len({core.device for core in cores}) > 1:
        raise ValueError(
            "TensorTrain: expected cores of one dtype on one device; got a mixture. Convert them with .to()."
        )
