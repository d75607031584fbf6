"""Which of two trains is nearer to a function, by the draws of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .algebra import evaluate_indices, norm
from .train import TensorTrain

__all__ = ["misfits"]


def misfits(
    trains: Sequence[TensorTrain], draws: Sequence[Tensor], coefficients: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> list[float]:
    r"""The sines of the angles between trains :math:`g_j` and a function :math:`f`: the least :math:`\lVert f - c g_j \rVert / \lVert f \rVert`.

    Inner products are estimated by importance sampling from the mixture of all :math:`g_j^2 / \lVert g_j \rVert^2`. By its own
    draws alone a train that lacks a mode is without fault; by those of one that has it, it is not.

    Args:
        trains: none of them zero.
        draws: of every train, multi-indices of shape ``(s_j, d)``, at least one in all.
        coefficients: mantissas and log scales of the coefficients of ``f`` at multi-indices.

    References:
        Owen and Zhou, Safe and effective importance sampling (2000).
    """
    points = torch.cat(list(draws))
    mantissa, log = coefficients(points)
    log_f = 2 * (mantissa.abs().log() + log)
    found = [evaluate_indices(train, points) for train in trains]
    log_squares = [2 * (m.abs().log() + scale - norm(t, log=True)) for t, (m, scale) in zip(trains, found, strict=True)]
    shares = [math.log(max(1, len(x)) / len(points)) for x in draws]
    log_q = torch.logsumexp(torch.stack([s + share for s, share in zip(log_squares, shares, strict=True)]), 0)
    top = (log_f - log_q).max()
    f = (0.5 * (log_f - log_q - top)).exp() * mantissa.sign()
    sines = []
    for log_square, (m, _) in zip(log_squares, found, strict=True):
        g = (0.5 * (log_square - log_q)).exp() * m.sign()
        cosine = (f * g).sum() / (f.norm() * g.norm())
        sines.append(float((1 - cosine.square()).clamp_min(0.0).sqrt()))
    return sines
