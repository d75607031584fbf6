"""Where a tempered population starts: a mixture around the local maxima and over all scales."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .coordinates import Coordinates

__all__ = ["Reference", "Spread"]

WIDENING = 1.5
WIDE_SHARE = 0.4
FREEDOM = 5.0


@dataclass(frozen=True)
class Reference:
    """A mixture of multivariate Student components on the lines, uniform on circles and finite sets.

    Attributes:
        coordinates: the coordinates.
        centres: shape (K, m).
        factors: lower triangular, covariances up to the degrees of freedom, shape (K, m, m), identity off the lines.
        log_shares: logarithms of the weights, shape (K,).
    """

    coordinates: Coordinates
    centres: Tensor
    factors: Tensor
    log_shares: Tensor

    @classmethod
    def around(
        cls,
        coordinates: Coordinates,
        starts: Tensor,
        values: Tensor,
        modes: Tensor,
        tops: Tensor,
        precisions: Tensor | None,
        prior: Tensor | None,
    ) -> Reference:
        """Components at every local maximum with its curvature widened, and wide ones over several scales.

        The wide ones are as wide as the better starts (draws of a prior replace them) and as the local maxima. They share
        the work: maxima may sit in a neck without mass, as in a funnel.
        """
        line = coordinates.line
        better = starts[values.argsort(descending=True)[: max(8, len(starts) // 8)]]
        if prior is not None:
            wide = [(prior.median(0).values, 1.2 * prior.std(0))]
        else:
            wide = [(better.median(0).values, better.std(0) * factor) for factor in (1.5, 4.0)]
        if len(modes):
            assert precisions is not None
            local = torch.linalg.inv(precisions).diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
            base = torch.maximum(modes.std(0, correction=0), local.median(0).values)
            wide += [(modes.mean(0), base * factor) for factor in (2.0, 6.0)]
        eye = torch.eye(coordinates.dim, dtype=starts.dtype)
        centres = [c for c, _ in wide]
        factors = [torch.diag(torch.where(line, s.clamp_min(1e-8), 1.0)) for _, s in wide]
        shares = [math.log((WIDE_SHARE if len(modes) else 1.0) / len(wide))] * len(wide)
        if len(modes) and precisions is not None:
            root = torch.linalg.inv(torch.linalg.cholesky(precisions)).mT
            covariance = WIDENING**2 * root @ root.mT
            covariance = torch.where(line[:, None] & line[None], covariance, eye)
            factors += list(torch.linalg.cholesky(covariance + 1e-300 * eye))
            centres += list(modes)
            mass = tops - torch.linalg.cholesky(precisions).diagonal(dim1=1, dim2=2).log().sum(1)
            # Flattened: the curvature at a maximum is a poor judge of its mass.
            weight = torch.softmax((0.25 * (mass - mass.max())).clamp_min(-5.0), 0)
            shares += ((1 - WIDE_SHARE) * weight).log().tolist()
        return cls(coordinates, torch.stack(centres), torch.stack(factors), torch.tensor(shares, dtype=starts.dtype))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws, shape (count, m), the components in fixed proportions."""
        shares = self.log_shares.exp() / self.log_shares.exp().sum()
        offset = torch.rand(1, generator=generator, dtype=shares.dtype)
        ladder = (torch.arange(count, dtype=shares.dtype) + offset) / count
        which = torch.searchsorted(shares.cumsum(0), ladder).clamp_max(len(shares) - 1)
        dim = self.coordinates.dim
        noise = torch.randn(count, dim, generator=generator, dtype=shares.dtype)
        half = torch._standard_gamma(torch.full((count,), FREEDOM / 2, dtype=shares.dtype), generator=generator)
        noise = noise * (FREEDOM / (2 * half)).sqrt()[:, None]
        t = self.centres[which] + torch.einsum("nij,nj->ni", self.factors[which], noise)
        u = torch.rand(count, dim, generator=generator, dtype=shares.dtype)
        lower, length = self.coordinates.bounds
        t = torch.where(self.coordinates.circle, lower + length * u, t)
        sizes = self.coordinates.sizes
        return torch.where(sizes > 0, (u * sizes).floor().clamp_max((sizes - 1).clamp_min(0)), t)

    def log_prob(self, t: Tensor) -> Tensor:
        """Normalised log-density, shape (N, m) to (N,)."""
        line = self.coordinates.line
        count = int(line.sum())
        rest = torch.where(self.coordinates.circle, self.coordinates.bounds[1].log(), 0.0).sum()
        rest = rest + self.coordinates.sizes.clamp_min(1).log().sum()
        constant = (
            math.lgamma((FREEDOM + count) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * count * math.log(FREEDOM * math.pi)
        )
        terms = []
        for centre, factor, share in zip(self.centres, self.factors, self.log_shares, strict=True):
            z = torch.linalg.solve_triangular(factor, torch.where(line, t - centre, 0.0).T, upper=False)
            radius = torch.log1p(z.square().sum(0) / FREEDOM)
            terms.append(share + constant - factor.diagonal().log().sum() - 0.5 * (FREEDOM + count) * radius)
        return torch.logsumexp(torch.stack(terms), 0) - rest


@dataclass(frozen=True)
class Spread:
    """Independent Student columns around zero, up to a constant: what a population in standardised columns may spread into.

    Attributes:
        line: which columns are lines; it is flat in the others.
        scale: of the columns.
    """

    line: Tensor
    scale: float = 3.0

    def log_prob(self, z: Tensor) -> Tensor:
        """Unnormalised, shape (..., m) to (...)."""
        return (-0.5 * (FREEDOM + 1) * torch.log1p((z / self.scale).square() / FREEDOM) * self.line).sum(-1)
