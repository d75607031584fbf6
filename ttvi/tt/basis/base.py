"""The contract of an orthonormal one-dimensional basis, and the antiderivative of a sum of squares."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Basis", "SquareIntegral"]

NEWTON_STEPS = 80


class Basis(abc.ABC):
    r"""Orthonormal functions :math:`\varphi_1, \dots, \varphi_n` of one coordinate, attached to nodes and weights.

    Every basis is *interpolatory*: the coefficients of a function in its span are
    :math:`c_i = f(x_i)\sqrt{w_i}`, so that a tensor of values at the nodes, each mode multiplied by
    :math:`\sqrt{w}`, is the coefficient tensor, and its Frobenius norm is the :math:`L^2` norm.

    A basis is an immutable description; the tensors it hands out follow the dtype and device asked for.
    ``size=None`` means *to be chosen* (see :meth:`with_size`).
    """

    size: int | None
    min_size: ClassVar[int] = 1
    periodic: ClassVar[bool] = False
    discrete: ClassVar[bool] = False

    # -- description -----------------------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def support(self) -> constraints.Constraint:
        """The set on which the functions live, as a ``torch.distributions`` constraint."""

    def with_size(self, size: int) -> Basis:
        """The same family on the same support with ``size`` functions."""
        return dataclasses.replace(self, size=size)  # type: ignore[type-var]

    def spec(self) -> dict[str, Any]:
        """A JSON-friendly description, read back by :func:`ttvi.tt.basis.from_spec`."""
        return {"family": type(self).__name__, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    def _require_size(self) -> int:
        if self.size is None:
            raise ValueError(
                f"{type(self).__name__}: expected a basis with a size; got size=None. "
                "Pass size=, call with_size(), or let a fit choose it."
            )
        return self.size

    # -- functions -------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def nodes(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """Interpolation nodes, shape ``(n,)``."""

    @abc.abstractmethod
    def weights(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """Quadrature weights at the nodes, shape ``(n,)``: the squared coefficient of a function is value² · weight."""

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """All functions at ``x``: shape ``(...)`` to ``(..., n)``. Differentiable in ``x`` to any order."""

    @abc.abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """All first derivatives at ``x``: shape ``(...)`` to ``(..., n)``."""

    @abc.abstractmethod
    def integrals(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """The integral of every function over the support, shape ``(n,)``."""

    @abc.abstractmethod
    def multiplication(self, power: int = 1) -> Tensor:
        r"""The matrix :math:`\int \varphi_i(x)\, x^p\, \varphi_j(x)\,dx` in float64, shape ``(n, n)``."""

    @abc.abstractmethod
    def modal(self, coefficients: Tensor) -> Tensor:
        """Coefficients (first dimension ``n``) in orthonormal modes sorted by frequency, to watch their decay."""

    def interpolate(self, x: Tensor, coefficients: Tensor) -> Tensor:
        r"""The functions :math:`\sum_i \varphi_i(x_b) C_{b i r}` for a batch of points with coefficients of their own.

        Args:
            x: points, shape ``(batch,)``.
            coefficients: shape ``(batch, n, r)``.

        Returns:
            Values, shape ``(batch, r)``.
        """
        # Twice as fast as a batched product this thin, and along contiguous memory if the caller keeps n innermost.
        return (coefficients.transpose(-1, -2) * self(x).unsqueeze(-2)).sum(-1)

    @abc.abstractmethod
    def square_integral(self, coefficients: Tensor) -> SquareIntegral:
        r"""The antiderivative of :math:`p(x) = \sum_m \big(\sum_i \varphi_i(x) C_{im}\big)^2`, batched.

        Args:
            coefficients: shape ``(batch, n, m)``.
        """

    # -- the reference density (defensive term, quasi-random and failed-fit fallback) --------------------------------

    @abc.abstractmethod
    def reference_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the reference on the support: uniform where that is possible, else heavier-tailed."""

    @abc.abstractmethod
    def reference_cdf(self, x: Tensor) -> Tensor:
        """Cumulative distribution of the reference."""

    @abc.abstractmethod
    def reference_icdf(self, u: Tensor) -> Tensor:
        """Quantile function of the reference."""

    @abc.abstractmethod
    def reference_moments(self) -> tuple[float, float]:
        """Mean and second moment of the reference."""


class SquareIntegral(abc.ABC):
    r"""The function :math:`F(x) = \int_{-\infty}^x p`, for a batch of sums of squares ``p``, and its inverse.

    Attributes:
        total: :math:`F(\infty)`, shape ``(batch,)``.
    """

    total: Tensor

    @abc.abstractmethod
    def evaluate(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(F(x), p(x))`` for one point per member of the batch, or of its subset ``rows``."""

    def __call__(self, x: Tensor) -> Tensor:
        """``F(x)``, one point per member of the batch: shapes ``(batch,)`` to ``(batch,)``."""
        return self.evaluate(x)[0]

    @abc.abstractmethod
    def inverse(self, u: Tensor, *, share: Tensor | None = None) -> Tensor:
        r"""The ``x`` with :math:`a\,F(x)/F(\infty) + (1 - a)\,R(x) = u`, ``R`` the cdf of the basis' reference.

        Args:
            u: levels in [0, 1], shape ``(batch,)``.
            share: the weight ``a``, shape ``(batch,)``; one when omitted.
        """


class GridSquareIntegral(SquareIntegral):
    """A smooth ``F`` tabulated on an ascending grid, inverted by a bracketed Newton iteration to full precision."""

    basis: Basis
    grid: Tensor  # (g,) ascending, in the coordinate x
    cumulative: Tensor  # (batch, g): F on the grid
    density: Tensor  # (batch, g): p on the grid

    def inverse(self, u: Tensor, *, share: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            return _invert(self, u.detach(), None if share is None else share.detach())


def _invert(integral: GridSquareIntegral, u: Tensor, share: Tensor | None) -> Tensor:
    """Bracket each level in the table, start from the monotone cubic there, then Newton with bisection as a safeguard."""
    basis, grid = integral.basis, integral.grid
    cumulative, density = integral.cumulative.detach(), integral.density.detach()
    scale = 1.0 / integral.total.detach().clamp_min(torch.finfo(u.dtype).tiny)
    target = u
    if share is None:
        target = u / scale  # compare with the unscaled table: one pass less over (batch, grid)
        scale = torch.ones_like(scale)
    else:
        scale = scale * share
        cumulative = cumulative * scale[:, None] + (1 - share)[:, None] * basis.reference_cdf(grid)
        density = density * scale[:, None] + (1 - share)[:, None] * basis.reference_log_prob(grid).exp()
    cell = torch.searchsorted(cumulative.contiguous(), target[:, None].contiguous(), right=True).clamp_(
        1, grid.numel() - 1
    )
    low, high = grid[cell[:, 0] - 1], grid[cell[:, 0]]
    corners = torch.cat([cell - 1, cell], 1)
    f_ends, p_ends = cumulative.gather(1, corners), density.gather(1, corners)
    x = _cubic_start(target, low, high, f_ends, p_ends)

    tolerance = 32 * torch.finfo(u.dtype).eps
    mass = target.new_ones(()) if share is not None else integral.total.detach()
    # A Newton step this short was the last one: the next would be its square, in units of the cell.
    short = 3e-7 * torch.minimum(high - low, (grid[1:] - grid[:-1]).median())
    rows: Tensor | None = None
    solution = x
    for step in range(NEWTON_STEPS):
        value, slope = integral.evaluate(x, rows)
        if share is not None:
            part = share if rows is None else share[rows]
            factor = scale if rows is None else scale[rows]
            value = value * factor + (1 - part) * basis.reference_cdf(x)
            slope = slope * factor + (1 - part) * basis.reference_log_prob(x).exp()
        error = value - target
        below = error < 0
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        change = error / slope.clamp_min(torch.finfo(u.dtype).tiny)
        proposal = x - change
        inside = (proposal - low) * (high - proposal) >= 0
        done = inside & ((change.abs() <= short) | (error.abs() <= tolerance * mass))
        x = torch.where(inside, proposal, 0.5 * (low + high))
        if rows is None:
            solution = x
        else:
            solution[rows] = x
        if step == 0:
            continue  # every look at who is done is a synchronisation
        done |= (high - low) <= tolerance * x.abs()
        keep = torch.nonzero(~done).squeeze(-1)
        if keep.numel() == 0:
            break
        if rows is None:
            solution = solution.clone()
        rows = keep if rows is None else rows[keep]
        x, low, high, target, short = x[keep], low[keep], high[keep], target[keep], short[keep]
        mass = mass if mass.dim() == 0 else mass[keep]
    return solution


def _cubic_start(target: Tensor, low: Tensor, high: Tensor, f: Tensor, p: Tensor) -> Tensor:
    """Inverse cubic Hermite interpolation in a cell, slopes limited so that it stays monotone (Fritsch & Carlson 1980)."""
    rise = (f[:, 1] - f[:, 0]).clamp_min(torch.finfo(f.dtype).tiny)
    run = high - low
    t = ((target - f[:, 0]) / rise).clamp(0, 1)
    slopes = (rise[:, None] / (p * run[:, None]).clamp_min(torch.finfo(f.dtype).tiny)).clamp_max(3.0)
    s = 1 - t
    return low + run * (t * t * (3 - 2 * t) + t * s * s * slopes[:, 0] - t * t * s * slopes[:, 1])
