"""Functional trains on other bases: changes of basis, contracted modes, products."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .algebra import hadamard, unit_scale
from .basis import Basis, Categorical, Fourier, Hermite, Legendre, Piecewise
from .contraction import contract
from .train import TensorTrain

__all__ = ["absorb", "common_basis", "map_modes", "multiply", "product_basis", "rebase", "slopes_of"]


def map_modes(train: TensorTrain, matrices: Sequence[Tensor]) -> TensorTrain:
    """Multiply every mode by a matrix of shape ``(m_k, n_k)``: values at points, other coefficients, frames."""
    cores = [torch.einsum("mn,rns->rms", matrix, core) for matrix, core in zip(matrices, train.cores, strict=True)]
    return TensorTrain(cores, train.log_scale)


def absorb(train: TensorTrain, vectors: Mapping[int, Tensor]) -> tuple[TensorTrain | None, Tensor]:
    """Contract some modes with vectors of shape ``(n_k,)``.

    Returns:
        The train of the other modes (``None`` if there are none), and the value if there are none (else one).
    """
    carry, logs = train.cores[0].new_ones(1, 1), train.log_scale
    cores: list[Tensor] = []
    for k, core in enumerate(train.cores):
        if k in vectors:
            carry, log = unit_scale(carry @ torch.einsum("n,rns->rs", vectors[k], core), (-2, -1))
            logs = logs + log
        else:
            cores.append(torch.tensordot(carry, core, 1))
            carry = torch.eye(core.shape[-1], dtype=core.dtype, device=core.device)
    if not cores:
        return None, carry[0, 0] * logs.exp()
    cores[-1] = torch.tensordot(cores[-1], carry, 1)
    return TensorTrain(cores, logs), logs.new_ones(())


def slopes_of(train: TensorTrain, values: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """All partial derivatives, shape ``(batch, d)``, from the bases and their derivatives at the points, ``(batch, n_k)``."""
    batch = len(values[0])
    right, log = train.cores[0].new_ones(batch, 1), train.log_scale.new_zeros(batch)
    rights = [(right, log)]
    for core, phi in zip(train.cores[:0:-1], values[:0:-1], strict=True):
        right, change = unit_scale(contract("rns,bn,bs->br", core, phi, right), -1)
        log = log + change
        rights.append((right, log))
    left, log = train.cores[0].new_ones(batch, 1), train.log_scale.expand(batch)
    columns = []
    for core, phi, slope, (right, right_log) in zip(train.cores, values, slopes, rights[::-1], strict=True):
        columns.append(contract("br,rns,bn,bs->b", left, core, slope, right) * (log + right_log).exp())
        left, change = unit_scale(contract("br,rns,bn->bs", left, core, phi), -1)
        log = log + change
    return torch.stack(columns, -1)


def rebase(train: TensorTrain, old: Sequence[Basis], new: Sequence[Basis]) -> TensorTrain:
    """Coefficients of the interpolant at the nodes of other bases; exact where the new spans contain the old ones."""
    matrices = []
    for a, b in zip(old, new, strict=True):
        nodes = b.nodes(dtype=train.dtype, device=train.device)
        weights = b.weights(dtype=train.dtype, device=train.device)
        matrices.append(a(nodes) * weights.sqrt()[:, None])
    return map_modes(train, matrices)


def common_basis(a: Basis, b: Basis) -> Basis | None:
    """The smallest basis whose span contains both; ``None`` unless they differ in size (or degree) alone."""
    if a == b:
        return a
    if isinstance(a, Piecewise) and isinstance(b, Piecewise):
        if (a.lower, a.upper, a.elements) != (b.lower, b.upper, b.elements):
            return None
        return a if a.degree > b.degree else b
    if type(a) is type(b) and not isinstance(a, Categorical) and a.with_size(b._require_size()) == b:
        larger = a if a._require_size() > b._require_size() else b
        # An even number of trigonometric functions lacks the sine of its highest frequency.
        return larger.with_size(larger._require_size() | 1) if isinstance(larger, Fourier) else larger
    return None


def product_basis(a: Basis, b: Basis) -> Basis | None:
    """The smallest basis whose span contains the product of any two functions; ``None`` where there is none."""
    if isinstance(a, Categorical) and a == b:
        return a
    if isinstance(a, Hermite) and isinstance(b, Hermite) and a.loc == b.loc:
        scale = (a.scale**-2 + b.scale**-2) ** -0.5  # Gaussians multiply: the product decays faster
        return Hermite(a.loc, scale, size=a._require_size() + b._require_size() - 1)
    if isinstance(a, Piecewise) and isinstance(b, Piecewise):
        if (a.lower, a.upper, a.elements) != (b.lower, b.upper, b.elements):
            return None
        degree = a.degree + b.degree
        return dataclasses.replace(a, degree=degree, size=a.elements * (degree + 1))
    if isinstance(a, Fourier | Legendre) and common_basis(a, b) is not None:
        total = a._require_size() + b._require_size()
        return a.with_size(total | 1 if isinstance(a, Fourier) else total - 1)
    return None


def multiply(
    a: TensorTrain, a_bases: Sequence[Basis], b: TensorTrain, b_bases: Sequence[Basis], new: Sequence[Basis]
) -> TensorTrain:
    """Coefficients of the product of two functions on their product bases; ranks multiply."""
    matrices = [
        basis(x) for basis, x in ((basis, n.nodes(dtype=b.dtype, device=b.device)) for basis, n in zip(b_bases, new))
    ]
    return hadamard(rebase(a, a_bases, new), map_modes(b, matrices))
