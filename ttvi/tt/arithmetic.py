"""Calculating with functional trains: sums and products, norms, other bases, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from .algebra import add, inner, norm, scale
from .basis import Basis, Hermite
from .canonical import orthogonalize, truncate
from .rebase import common_basis, multiply, product_basis, rebase
from .train import TensorTrain

__all__ = ["Arithmetic"]

AUTOMATIC = 1e-13  # truncation after an operation, relative to the norms of the operands


class Arithmetic:
    """What a train with bases needs to be added, multiplied and rounded. Ranks add or multiply, then are truncated."""

    train: TensorTrain
    bases: tuple[Basis, ...]
    __array_ufunc__ = None  # numpy scalars leave the operators to this class

    def _new(self, train: TensorTrain, bases: Sequence[Basis]) -> Self:
        raise NotImplementedError

    def norm(self) -> Tensor:
        r"""The :math:`L^2` norm over the support (Lebesgue and counting measure)."""
        return norm(self.train)

    def inner(self, other: Self) -> Tensor:
        r"""The inner product :math:`\int f g\,dx`."""
        bases = self._joint(other, common_basis, "inner")
        return inner(rebase(self.train, self.bases, bases), rebase(other.train, other.bases, bases))

    def truncate(self, tol: float = 0.0, max_rank: int | None = None) -> Self:
        """The function of lowest ranks within a relative :math:`L^2` distance ``tol``, unless ``max_rank`` cuts in."""
        return self._new(truncate(self.train, tol=tol, max_rank=max_rank), self.bases)

    def resample(self, bases: Sequence[Basis]) -> Self:
        """The interpolant at the nodes of other bases on the same supports: exact if they span the function."""
        bases = tuple(bases)
        if len(bases) != len(self.bases) or any(b.size is None for b in bases):
            raise ValueError(
                f"resample: expected {len(self.bases)} bases with sizes; got {bases!r}. One per coordinate."
            )
        return self._new(rebase(self.train, self.bases, bases), bases)

    def _joint(self, other: Self, rule: Callable[[Basis, Basis], Basis | None], caller: str) -> tuple[Basis, ...]:
        if len(other.bases) != len(self.bases):
            raise ValueError(
                f"{caller}: expected functions of equally many coordinates; got {len(self.bases)} and {len(other.bases)}. "
                "Integrate or fix some first."
            )
        joint = []
        for k, (a, b) in enumerate(zip(self.bases, other.bases, strict=True)):
            basis = rule(a, b)
            if basis is None:
                raise ValueError(
                    f"{caller}: expected bases of one family and support; got {a!r} and {b!r} at coordinate {k}. Use resample()."
                )
            joint.append(basis)
        return tuple(joint)

    def _constant(self, value: float | Tensor, caller: str) -> Self:
        if any(isinstance(basis, Hermite) for basis in self.bases):
            raise ValueError(
                f"{caller}: expected bases that hold constants; got a Hermite basis, which decays. Add the number to the values instead."
            )
        cores = [b.integrals(dtype=self.train.dtype, device=self.train.device)[None, :, None] for b in self.bases]
        return self._new(TensorTrain([cores[0] * value, *cores[1:]]), self.bases)

    def __add__(self, other: Any) -> Self:
        if _is_number(other):
            other = self._constant(other, "+")
        if not isinstance(other, type(self)):
            return NotImplemented
        bases = self._joint(other, common_basis, "+")
        a, b = (rebase(f.train, f.bases, bases) if f.bases != bases else f.train for f in (self, other))
        return self._new(_rounded(add(a, b), (a, b)), bases)

    def __neg__(self) -> Self:
        return self._new(scale(self.train, -1.0), self.bases)

    def __sub__(self, other: Any) -> Self:
        if not _is_number(other) and not isinstance(other, type(self)):
            return NotImplemented
        return self + (-other)

    def __rsub__(self, other: Any) -> Self:
        return (-self) + other

    def __mul__(self, other: Any) -> Self:
        if _is_number(other):
            return self._new(scale(self.train, other), self.bases)
        if not isinstance(other, type(self)):
            return NotImplemented
        bases = self._joint(other, product_basis, "*")
        train = multiply(self.train, self.bases, other.train, other.bases, bases)
        return self._new(truncate(train, tol=_automatic(train)), bases)

    def __truediv__(self, other: Any) -> Self:
        if not _is_number(other):
            return NotImplemented
        return self * (1.0 / other)

    def __pow__(self, exponent: Any) -> Self:
        if not isinstance(exponent, int) or isinstance(exponent, bool) or exponent < 0:
            return NotImplemented
        if exponent == 0:
            return self._constant(1.0, "**")
        if exponent == 1:
            return self
        half = self ** (exponent // 2)
        return half * half * self if exponent % 2 else half * half

    __radd__, __rmul__ = __add__, __mul__


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()


def _automatic(train: TensorTrain) -> float:
    return max(AUTOMATIC, 20 * torch.finfo(train.dtype).eps)


def _rounded(total: TensorTrain, terms: Sequence[TensorTrain]) -> TensorTrain:
    """Truncation relative to the terms: what is left of a cancellation is rounding error and needs no rank."""
    logs = torch.stack([norm(term, log=True) for term in terms])
    total = orthogonalize(total)  # whose norm is that of one core: an inner product would cancel
    size = float(total.cores[0].detach().norm().log() + total.log_scale.detach())
    if size == -math.inf:
        return truncate(total, tol=_automatic(total))
    lost = float(torch.logsumexp(logs, 0)) - size
    tol = _automatic(total) * math.exp(min(lost, 700.0))
    if tol >= 1:
        return TensorTrain([core.new_zeros(1, core.shape[1], 1) for core in total.cores])
    return truncate(total, tol=tol)
