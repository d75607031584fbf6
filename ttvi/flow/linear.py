"""Transforms without a network: a permutation, a scale per coordinate, a linear map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .conditioner import Kind, as_vector, parse_kinds
from .transform import Transform

__all__ = ["DiagonalAffine", "LULinear", "Permutation"]


class Permutation(Transform):
    """x_k = z_order[k]: the one transform that is not the identity at the start.

    Args:
        dim: number of coordinates.
        order: positions in ``z``, in the order of ``x``; reversed by default.
        context_dim: accepted and ignored.
        dtype: accepted and ignored.

    >>> Permutation(3)(torch.tensor([1.0, 2.0, 3.0]))[0]
    tensor([3., 2., 1.])
    """

    order: Tensor
    restore: Tensor

    def __init__(
        self,
        dim: int,
        *,
        order: Sequence[int] | None = None,
        context_dim: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        positions = list(range(dim))[::-1] if order is None else [int(k) for k in order]
        if sorted(positions) != list(range(dim)):
            raise ValueError(
                f"Permutation: expected each of 0, ..., {dim - 1} once; got {positions}. List every position of `z`."
            )
        super().__init__(dim, context_dim, {"order": positions})
        self.register_buffer("order", torch.tensor(positions), persistent=False)
        self.register_buffer("restore", torch.tensor(positions).argsort(), persistent=False)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(z, context)
        return z.index_select(-1, self.order), z.new_zeros(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(x, context)
        return x.index_select(-1, self.restore), x.new_zeros(x.shape[:-1])


class _RealLinear(Transform):
    """What the linear transforms share: they move the real coordinates, measured from ``loc`` in units of ``scale``.

    Args:
        dim: number of coordinates.
        kinds: as in `Coupling`; intervals, circles and discrete coordinates stay.
        loc: fixed point at the start of training, per coordinate.
        scale: unit of shifts, per coordinate.
        context_dim: number of conditioning values; they are not used.
        dtype: floating type of parameters and buffers.

    Raises:
        ValueError: no coordinate is real.
    """

    loc: Tensor
    scale: Tensor
    real: Tensor

    def __init__(
        self,
        dim: int,
        *,
        kinds: Sequence[Kind] | None = None,
        loc: object = None,
        scale: object = None,
        context_dim: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        name = type(self).__name__
        parsed = parse_kinds(kinds, dim, name)
        real = [kind == "real" for kind, _, _ in parsed]
        if not any(real):
            raise ValueError(f"{name}: expected a real coordinate; got {kinds}. Leave this transform out.")
        locs = as_vector(loc, dim, 0.0, dtype, "loc", name)
        scales = as_vector(scale, dim, 1.0, dtype, "scale", name)
        described = [["real"] if kind == "real" else [kind, lower, upper] for kind, lower, upper in parsed]
        arguments = {"kinds": described, "loc": locs.tolist(), "scale": scales.tolist()}
        super().__init__(dim, context_dim, arguments)
        self.register_buffer("loc", locs)
        self.register_buffer("scale", scales)
        self.register_buffer("real", torch.tensor(real).to(dtype), persistent=False)


class DiagonalAffine(_RealLinear):
    """x = loc + (z − loc)·eˢ + scale·t with s and t free per coordinate. Arguments as in `LULinear`.

    >>> DiagonalAffine(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[1].item()
    0.0
    """

    def __init__(self, dim: int, **arguments: object) -> None:
        super().__init__(dim, **arguments)  # type: ignore[arg-type]
        self.log_slope = nn.Parameter(torch.zeros_like(self.loc))
        self.shift = nn.Parameter(torch.zeros_like(self.loc))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(z, context)
        log_slope = self.log_slope * self.real
        x = torch.addcmul(z, z - self.loc, log_slope.expm1()) + self.scale * self.shift * self.real
        return x, log_slope.sum().expand(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(x, context)
        log_slope = self.log_slope * self.real
        z = x - self.scale * self.shift * self.real
        return torch.addcmul(z, z - self.loc, (-log_slope).expm1()), -log_slope.sum().expand(x.shape[:-1])


class LULinear(_RealLinear):
    """x = loc + scale·L·U·(z − loc)/scale + scale·t: every real coordinate mixed with every other, at cost dim².

    Args:
        dim: number of coordinates.
        kinds: as in `Coupling`; intervals, circles and discrete coordinates stay and are not mixed in.
        loc: fixed point at the start of training, per coordinate.
        scale: unit per coordinate.
        context_dim: number of conditioning values; they are not used.
        dtype: floating type of parameters and buffers.

    References:
        Kingma, Dhariwal: Glow: generative flow with invertible 1×1 convolutions (2018)

    >>> LULinear(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[1].item()
    0.0
    """

    mixed: Tensor

    def __init__(self, dim: int, **arguments: object) -> None:
        super().__init__(dim, **arguments)  # type: ignore[arg-type]
        self.register_buffer("mixed", torch.outer(self.real, self.real), persistent=False)
        # Below the diagonal: L, whose diagonal is one. Above: U, whose diagonal is exp(log_slope).
        self.triangles = nn.Parameter(torch.zeros_like(self.mixed))
        self.log_slope = nn.Parameter(torch.zeros_like(self.loc))
        self.shift = nn.Parameter(torch.zeros_like(self.loc))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        triangles = self.triangles * self.mixed
        log_slope = self.log_slope * self.real
        eye = torch.eye(self.dim, dtype=triangles.dtype, device=triangles.device)
        return triangles.tril(-1) + eye, triangles.triu(1) + log_slope.exp().diag(), log_slope.sum()

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(z, context)
        lower, upper, log_det = self._factors()
        # Only the difference to the identity is applied, so that parameters of zero add nothing.
        change = lower @ upper - torch.eye(self.dim, dtype=z.dtype, device=z.device)
        moved = ((z - self.loc) / self.scale) @ change.mT + self.shift * self.real
        return torch.addcmul(z, self.scale, moved), log_det.expand(z.shape[:-1])

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(x, context)
        lower, upper, log_det = self._factors()
        u = (x - self.loc) / self.scale
        flat = (u - self.shift * self.real).reshape(-1, self.dim).mT
        flat = torch.linalg.solve_triangular(lower, flat, upper=False, unitriangular=True)
        flat = torch.linalg.solve_triangular(upper, flat, upper=True)
        return torch.addcmul(x, self.scale, flat.mT.reshape(u.shape) - u), -log_det.expand(x.shape[:-1])
