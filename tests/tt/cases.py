"""One table of small random densities over mixed bases, with everything about them computed densely by quadrature."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttvi.tt import Categorical, Fourier, Hermite, Legendre, Piecewise, TensorTrain, TTDensity
from ttvi.tt.basis import Basis

__all__ = ["CASES", "DEFENSIVE", "TABLE", "Case", "quadrature", "random_train"]

LOG_SCALE = 0.7  # of every train in the table, so that a forgotten scale shows


def quadrature(basis: Basis) -> tuple[Tensor, Tensor]:
    """Points and weights exact (to rounding) for products of two basis functions, for the reference, and x², x³ times them."""
    if isinstance(basis, Categorical):
        return basis.nodes(), torch.ones(basis.size, dtype=torch.float64)
    if isinstance(basis, Hermite):  # the trapezoidal rule is spectrally accurate for analytic functions on the line
        z = torch.arange(-100, 101, dtype=torch.float64) * 0.4
        return basis.loc + basis.scale * z, torch.full_like(z, 0.4 * basis.scale)
    panels = basis.elements if isinstance(basis, Piecewise) else 1
    t, w = np.polynomial.legendre.leggauss(28 if isinstance(basis, Fourier) else basis.size + 3)
    step = (basis.upper - basis.lower) / panels
    x = basis.lower + step * (np.arange(panels)[:, None] + (t + 1) / 2)
    return torch.as_tensor(x.reshape(-1)), torch.as_tensor(np.tile(w * step / 2, panels))


def random_train(
    mode_sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    *,
    seed: int = 0,
    batch: tuple[int, ...] = (),
    log_scale: float = 0.0,
) -> TensorTrain:
    """Standard normal cores; ``ranks`` are the inner ones."""
    generator = torch.Generator().manual_seed(seed)
    full = (1, *ranks, 1)
    shapes = [(*batch, full[k], n, full[k + 1]) for k, n in enumerate(mode_sizes)]
    return TensorTrain([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes], log_scale)


@dataclass(frozen=True)
class Case:
    """A random train over some bases."""

    bases: tuple[Basis, ...]
    ranks: tuple[int, ...]
    seed: int

    @property
    def dim(self) -> int:
        return len(self.bases)

    @functools.cached_property
    def train(self) -> TensorTrain:
        sizes = tuple(basis.size for basis in self.bases)
        return random_train(sizes, self.ranks, seed=self.seed, log_scale=LOG_SCALE)

    def density(self, defensive: float = 0.0) -> TTDensity:
        return TTDensity(self.train, self.bases, defensive=defensive)

    @functools.cached_property
    def grids(self) -> list[tuple[Tensor, Tensor]]:
        return [quadrature(basis) for basis in self.bases]

    @functools.cached_property
    def points(self) -> Tensor:
        """The product of the grids, shape ``(m_1, ..., m_d, d)``."""
        return torch.stack(torch.meshgrid(*[x for x, _ in self.grids], indexing="ij"), -1)

    @functools.cached_property
    def square(self) -> Tensor:
        """g² on the product grid, without the log scale."""
        cores = [
            torch.einsum("xn,rns->rxs", basis(x), core)
            for basis, (x, _), core in zip(self.bases, self.grids, self.train.cores)
        ]
        g = cores[0][0]
        for core in cores[1:]:
            g = torch.einsum("...r,rxs->...xs", g, core)
        return g.squeeze(-1).square()

    def integrate(self, values: Tensor, over: tuple[int, ...]) -> Tensor:
        """Integrate out the given coordinates of values on the product grid."""
        for k in sorted(over, reverse=True):
            values = torch.tensordot(values, self.grids[k][1], dims=([k], [0]))
        return values

    @functools.cached_property
    def log_evidence(self) -> float:
        return math.log(float(self.integrate(self.square, tuple(range(self.dim))))) + 2 * LOG_SCALE

    @functools.cache  # noqa: B019  (the table lives as long as the tests)
    def dense(self, defensive: float = 0.0) -> Tensor:
        """The normalised density on the product grid."""
        g2 = self.square
        g2 = g2 / self.integrate(g2, tuple(range(self.dim)))
        reference = torch.ones((), dtype=torch.float64)
        for basis, (x, _) in zip(self.bases, self.grids):
            reference = reference.unsqueeze(-1) * basis.reference_log_prob(x).exp()
        return (1 - defensive) * g2 + defensive * reference

    def expectation(self, values: Tensor, defensive: float) -> Tensor:
        """The mean of values on the product grid."""
        return self.integrate(self.dense(defensive) * values, tuple(range(self.dim)))

    def subgrid(self, keep: tuple[int, ...]) -> Tensor:
        """The product of some grids, flattened: shape ``(m, len(keep))``."""
        return torch.stack(torch.meshgrid(*[self.grids[k][0] for k in keep], indexing="ij"), -1).reshape(-1, len(keep))

    def __hash__(self) -> int:
        return id(self)


CASES = {
    "legendre-3": Case(
        (Legendre(-1.0, 2.0, size=5), Legendre(0.0, 1.0, size=4), Legendre(-3.0, -1.0, size=6)), (2, 3), 1
    ),
    "line-and-circle-3": Case(
        (Hermite(0.4, 0.7, size=4), Fourier(-math.pi, math.pi, size=5), Hermite(-1.0, 1.2, size=3)), (3, 2), 2
    ),
    "mixed-4": Case(
        (Legendre(-1.0, 1.0, size=4), Categorical(3), Hermite(0.5, 1.5, size=4), Fourier(0.0, 1.0, size=4)),
        (2, 4, 3),
        3,
    ),
    "discrete-first-4": Case(
        (Categorical(2), Piecewise(-1.0, 3.0, size=4, degree=1), Categorical(4), Legendre(0.0, 2.0, size=4)),
        (2, 3, 4),
        4,
    ),
    "mixed-5": Case(
        (
            Fourier(0.0, 2 * math.pi, size=5),
            Legendre(-1.0, 1.0, size=4),
            Categorical(3),
            Piecewise(0.0, 1.0, size=4, degree=1),
            Legendre(2.0, 5.0, size=4),
        ),
        (3, 4, 4, 2),
        5,
    ),
}

DEFENSIVE = (0.0, 0.05)

TABLE = [(name, share) for name in CASES for share in DEFENSIVE]
"""Every case with and without a defensive term, for ``parametrize``."""
