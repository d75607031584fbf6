"""Conditionals of the mixture of a squared train and its reference, batches included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SupportError
from .basis import Basis
from .squared import SquaredTrain
from .train import TensorTrain

__all__ = ["conditional"]


def conditional(
    square: SquaredTrain, log_share: Tensor, batch_shape: torch.Size, bases: Sequence[Basis], fixed: dict[int, Tensor]
) -> tuple[SquaredTrain, Tensor, torch.Size]:
    r"""Fix coordinates of :math:`(1-\gamma) g^2/\lVert g\rVert^2 + \gamma\rho`; the result is of the same form.

    Its share is :math:`\gamma' = \gamma\rho(x_C) / q(x_C)`.

    Args:
        square, log_share: the mixture, its batch flattened.
        batch_shape: how the batch is shown.
        bases: one per coordinate.
        fixed: position to values, of shapes that broadcast together.

    Returns:
        The conditioned square, the logarithms of the new shares, and the new batch shape.

    Raises:
        SupportError: a value lies outside the support.
    """
    for k, value in fixed.items():
        if not bool(bases[k].support.check(value).all()):
            raise SupportError(
                f"condition: expected values of coordinate {k} in {bases[k].support}; got {value.flatten()[:3].tolist()}. "
                "Condition inside the support."
            )
    extra = torch.broadcast_shapes(*[value.shape for value in fixed.values()])
    shape = torch.Size([*extra, *batch_shape])
    if shape:
        old = max(1, batch_shape.numel())
        fixed = {k: v.expand(extra).reshape(-1, 1).expand(-1, old).reshape(-1) for k, v in fixed.items()}
        square, log_share = _repeat(square, extra.numel()), _repeat_vector(log_share, extra.numel())
    log_norm = square.log_norm()
    reference = sum((bases[k].reference_log_prob(v) for k, v in fixed.items()), torch.zeros_like(log_norm))
    result = square.condition(fixed)
    if not any(core.requires_grad for core in result.train.cores):
        result = result.canonicalized()  # else when needed: fixed coordinates lower ranks, where a QR has no derivative
    kept = torch.log1p(-log_share.exp()) + result.log_norm() - log_norm
    swapped = log_share + reference
    return result, swapped - torch.logaddexp(kept, swapped), shape


def _repeat_vector(vector: Tensor, times: int) -> Tensor:
    return vector.repeat(times) if vector.dim() else vector


def _repeat(square: SquaredTrain, times: int) -> SquaredTrain:
    """A batched square, its batch repeated; an unbatched one broadcasts as it is."""
    cores = [core.repeat(times, 1, 1, 1) if core.dim() == 4 else core for core in square.train.cores]
    return SquaredTrain(
        TensorTrain(cores, _repeat_vector(square.train.log_scale, times)), square.bases, square.canonical
    )
