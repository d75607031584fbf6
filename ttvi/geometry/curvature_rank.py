"""What rank a train would need, as far as the curvature at the local maxima, or the covariance of a population, can tell."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .chart import Chart

__all__ = ["cut_information", "predicted_rank"]

BINS = 200
MOST = 100_000


def predicted_rank(chart: Chart, modes: Tensor, precisions: Tensor, tol: float) -> int:
    r"""The largest rank over the cuts for the normal density with the curvature of the highest local maximum.

    The square root of a normal density factorises at a cut through the canonical correlations :math:`\rho_j` of its
    precision into Mehler kernels, with singular values :math:`\prod_j t_j^{k_j}`, :math:`\rho = 2t/(1+t^2)`. Those
    above ``tol`` are counted. Costs no evaluation.

    Args:
        chart: the chart.
        modes: local maxima, best first, shape (K, m).
        precisions: negative Hessians there, shape (K, m, m).
        tol: relative size of the singular values that count.

    Returns:
        At most 100 000.
    """
    if not len(modes):
        return MOST
    jacobian = _jacobian(chart, modes[0])
    return _rank(jacobian.T @ precisions[0] @ jacobian, tol)


def _jacobian(chart: Chart, mode: Tensor) -> Tensor:
    """dt/ds at a point, the stretch left out: column by column it changes no rank."""
    s = chart.mixing.inverse(mode)[0].detach()
    if chart.axis_aligned:
        return torch.eye(len(mode), dtype=mode.dtype)[:, chart.order]
    return torch.autograd.functional.jacobian(lambda z: chart.mixing.forward(z)[0], s)


def _rank(precision: Tensor, tol: float) -> int:
    dim = len(precision)
    worst = 1
    for cut in range(1, dim):
        left = torch.linalg.cholesky(precision[:cut, :cut])
        right = torch.linalg.cholesky(precision[cut:, cut:])
        cross = torch.linalg.solve_triangular(left, precision[:cut, cut:], upper=False)
        cross = torch.linalg.solve_triangular(right, cross.T, upper=False)
        worst = max(worst, _count(torch.linalg.svdvals(cross).clamp(0, 1 - 1e-9), tol))
    return worst


def _count(correlations: Tensor, tol: float) -> int:
    """Products of powers of the Mehler ratios above ``tol``, on a logarithmic grid."""
    ratio = correlations / (1 + (1 - correlations.square()).sqrt())
    steps = [max(1, round(BINS * math.log(t) / math.log(tol))) for t in ratio.tolist() if t > tol]
    reached = [1] + [0] * BINS
    for step in steps:
        for k in range(step, BINS + 1):
            reached[k] = min(MOST, reached[k] + reached[k - step])
    return min(MOST, sum(reached))


def cut_information(points: Tensor) -> float:
    r"""The mutual information of the coordinates before and after a cut, on the average over the cuts, for a normal density (nats).

    .. math:: I_k = \tfrac12 (\log\det C_{\le k} + \log\det C_{>k} - \log\det C)

    It depends on the order of the coordinates, as the ranks of a train do, and sees all modes of a population at once.

    Args:
        points: a population, shape (N, m).

    >>> z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> x, y, free = z[:, 0], 0.8 * z[:, 0] + 0.6 * z[:, 1], torch.linspace(-1, 1, 4000, dtype=torch.float64)
    >>> [round(cut_information(torch.stack(order, 1)), 1) for order in ((x, y, free), (x, free, y))]
    [0.3, 0.5]
    """
    count, dim = points.shape
    centred = points - points.mean(0)
    scaled = centred / centred.square().mean(0).sqrt().clamp_min(1e-12)
    shrink = min(0.5, max(1e-6, 0.1 * dim / count))  # fewer points than coordinates determine no correlations
    correlation = (1 - shrink) * scaled.T @ scaled / count + shrink * torch.eye(dim, dtype=points.dtype)
    before = 2 * torch.linalg.cholesky(correlation).diagonal().log().cumsum(0)
    after = 2 * torch.linalg.cholesky(correlation.flip(0, 1)).diagonal().log().cumsum(0).flip(0)
    return float(0.5 * (before[:-1] + after[1:] - before[-1]).mean())
