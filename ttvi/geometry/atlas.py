"""A mixture of trains, each in the coordinates of one region of a soft partition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..records import register
from ..tt.arguments import check_positions
from .composed import Composed
from .coordinates import Coordinates, Pullback

__all__ = ["Atlas", "Partition"]

BARRIER = 2.0  # nats below the lower of two maxima that keep them apart
SMALLEST_SHARE = 1e-4
NEGLIGIBLE_SHARE = 1e-3  # of the mass as a normal density: what a certificate calls negligible, too
INHABITED = 0.005  # of the population: kinks of a chain have a point each, and are no regions
FREEDOM = 4.0  # degrees of, of the components
ROUNDS = 10
NEIGHBOURS = 6


@register("Atlas")
class Atlas(Composed):
    r"""The mixture :math:`q = \sum_k w_k q_k` of densities on one support.

    Args:
        parts: normalised densities with ``log_prob`` and ``sample``.
        log_shares: logarithms of the weights, shape (K,), normalised here.

    >>> from ttvi.tt import Legendre, TTDensity
    >>> parts = [TTDensity.fit(lambda x, s=s: s * x[:, 0], [Legendre(0.0, 1.0)], seed=0) for s in (-1.0, 1.0)]
    >>> atlas = Atlas(parts, torch.zeros(2, dtype=torch.float64))
    >>> x = torch.tensor([[0.3]], dtype=torch.float64)
    >>> exact = (torch.exp(-x) + torch.exp(x - 1)) / (2 - 2 / torch.e)
    >>> bool((atlas.log_prob(x).exp() - exact).abs() < 1e-4)
    True
    """

    def __init__(self, parts: Sequence[Any], log_shares: Tensor) -> None:
        self.parts = list(parts)
        self.log_shares = torch.log_softmax(log_shares, 0)
        super().__init__(self.parts[0].event_shape)

    @property
    def _first(self) -> Any:
        return self.parts[0]

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """A draw of a component is not differentiable in the weights."""
        return False

    def __repr__(self) -> str:
        return f"Atlas({len(self.parts)} parts)"

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density, exact.

        Args:
            value: shape (..., D).

        Returns:
            Shape (...).
        """
        terms = [part.log_prob(value) + share for part, share in zip(self.parts, self.log_shares, strict=True)]
        stacked = torch.stack(terms)
        dead = (stacked == -math.inf).all(0)  # their gradients would be NaN
        return torch.where(dead, -math.inf, torch.logsumexp(torch.where(dead, 0.0, stacked), 0))

    def log_responsibilities(self, value: Tensor) -> Tensor:
        """Logarithms of the shares of the parts in the density at every point; equal ones where there is none.

        Args:
            value: shape (N, D).

        Returns:
            Shape (N, K), in exponentials adding up to one.
        """
        terms = [part.log_prob(value) + share for part, share in zip(self.parts, self.log_shares, strict=True)]
        stacked = torch.stack(terms, 1)
        somewhere = (stacked > -math.inf).any(1, keepdim=True)
        return torch.log_softmax(torch.where(somewhere, stacked, 0.0), 1)

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None, sobol: bool = False
    ) -> Tensor:
        """Exact draws.

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.
            sobol: quasi-Monte Carlo points of the parts; the shares are met to within one draw.

        Returns:
            Shape ``(*sample_shape, D)``.
        """
        count = math.prod(sample_shape)
        shares = self.log_shares.exp()
        if sobol:
            offset = torch.rand((), generator=generator, dtype=shares.dtype, device=shares.device)
            ladder = (torch.arange(count, dtype=shares.dtype, device=shares.device) + offset) / max(1, count)
            which = torch.searchsorted(shares.cumsum(0), ladder).clamp_max(len(shares) - 1)
        else:
            which = torch.multinomial(shares, max(1, count), replacement=True, generator=generator)[:count]
        drawn = torch.empty(count, *self.event_shape, dtype=self.dtype, device=self.device)
        for k, part in enumerate(self.parts):
            mine = (which == k).nonzero()[:, 0]
            if len(mine):
                drawn[mine] = part.sample((len(mine),), generator=generator, **({"sobol": True} if sobol else {}))
        if sobol:
            drawn = drawn[torch.randperm(count, generator=generator, device=drawn.device)]
        return drawn.view(*sample_shape, *self.event_shape)

    def marginal(self, dims: Sequence[int]) -> Atlas:
        """The mixture of the parts' marginals.

        Args:
            dims: positions of the coordinates that stay.

        Raises:
            ValueError: a part has none.
        """
        return Atlas([part.marginal(dims) for part in self.parts], self.log_shares)

    def condition(self, values: Mapping[int, Any]) -> Atlas:
        """The mixture of the parts' conditionals, weighed by their marginal densities at ``values``.

        Args:
            values: position to number.

        Raises:
            ValueError: a part has none, or no part has any density there.
        """
        fixed = sorted(check_positions(list(values), self.event_shape[0], "condition"))
        given = {k % self.event_shape[0]: value for k, value in values.items()}
        x = torch.stack([torch.as_tensor(given[k], dtype=self.dtype, device=self.device) for k in fixed])
        log_shares = self.log_shares + torch.stack([_evidence(part, fixed, x) for part in self.parts])
        alive = torch.isfinite(log_shares)
        if not bool(alive.any()):
            raise ValueError(
                f"condition: expected values of positive density; got {dict(values)}. Look at the marginal."
            )
        parts = [part.condition(values) for part, keep in zip(self.parts, alive.tolist(), strict=True) if keep]
        return Atlas(parts, log_shares[alive])

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        return {}, {"log_shares": self.log_shares}, {"parts": self.parts}

    @classmethod
    def _from_record(cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]) -> Atlas:
        return cls(children["parts"], tensors["log_shares"])


def _evidence(part: Any, fixed: Sequence[int], x: Tensor) -> Tensor:
    """The marginal log-density of a part; its complaint is about a condition."""
    try:
        return part.marginal(fixed).log_prob(x)
    except ValueError as error:
        raise ValueError(f"condition: {str(error).partition(': ')[2]}") from error


@dataclass(frozen=True)
class Partition:
    r"""A soft partition of unity: responsibilities :math:`r_k(t) \propto \pi_k\, t_\nu(t; \mu_k, \Sigma_k)` of a fitted mixture.

    Heavy tails, :math:`\nu = 4`: far out the regions share the space instead of the widest one taking all of it.

    Attributes:
        coordinates: only the lines take part.
        centres: shape (K, L) on the L lines.
        factors: lower triangular, shape (K, L, L).
        log_shares: shape (K,).
    """

    coordinates: Coordinates
    centres: Tensor
    factors: Tensor
    log_shares: Tensor

    @property
    def size(self) -> int:
        """Number of regions K."""
        return len(self.centres)

    def log_responsibilities(self, t: Tensor) -> Tensor:
        """Logarithms of the responsibilities.

        Args:
            t: shape (N, m).

        Returns:
            Shape (N, K), in exponentials adding up to one; even where ``t`` is beyond the floating-point numbers.
        """
        z = t[:, self.coordinates.line.to(t.device)]
        dim = z.shape[1]
        terms = []
        for centre, factor, share in zip(self.centres, self.factors, self.log_shares, strict=True):
            factor = factor.to(z)
            y = torch.linalg.solve_triangular(factor, (z - centre.to(z)).T, upper=False)
            spread = torch.log1p(y.square().sum(0) / FREEDOM)
            terms.append(share.to(z) - factor.diagonal().log().sum() - 0.5 * (FREEDOM + dim) * spread)
        stacked = torch.stack(terms, 1)
        known = torch.isfinite(stacked).all(1, keepdim=True)
        return torch.log_softmax(torch.where(known, stacked, 0.0), 1)

    @classmethod
    def around(
        cls, target: Pullback, points: Tensor, modes: Tensor, precisions: Tensor | None, limit: int
    ) -> Partition | None:
        """Regions of equal shares around the local maxima that barriers keep apart.

        Args:
            target: to look for barriers; seven evaluations per pair of neighbours.
            points: the population, shape (N, m).
            modes: best first, shape (K, m).
            precisions: their curvatures, shape (K, m, m), or None: the points nearest to a maximum then say how wide it is.
            limit: the most regions.

        Returns:
            None when there is one region only.
        """
        line = target.coordinates.line
        kept = _separate(target, modes, limit)
        if len(kept) < 2 or not bool(line.any()):
            return None
        z, centres = points[:, line], modes[kept][:, line]
        if precisions is not None:
            covariances = torch.linalg.inv(precisions[kept][:, line][:, :, line])
        else:
            covariances = _neighbourhoods(z, centres)
        log_shares = torch.zeros(len(kept), dtype=z.dtype)
        return cls(target.coordinates, centres, _factors(covariances, 1e-12), log_shares)

    def shared(self, values: Tensor) -> Partition:
        """The same regions with the shares of normal densities of these heights.

        Args:
            values: log-densities at the centres, shape (K,).
        """
        log_volumes = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        return replace(self, log_shares=torch.log_softmax(values + log_volumes, 0))

    def of_weight(self, points: Tensor, values: Tensor) -> Partition | None:
        """The regions that hold some of the population, or some mass as normal densities; None when that is one only.

        Args:
            points: the population, shape (N, m).
            values: log-densities at the centres, shape (K,).
        """
        inhabited = self.log_responsibilities(points).exp().mean(0) > INHABITED
        kept = inhabited | (self.shared(values).log_shares > math.log(NEGLIGIBLE_SHARE))
        if int(kept.sum()) < 2:
            return None
        return replace(self, centres=self.centres[kept], factors=self.factors[kept], log_shares=self.log_shares[kept])

    def refined(self, points: Tensor) -> Partition:
        """The regions after some rounds of expectation maximisation on the population."""
        partition = self
        for _ in range(ROUNDS):
            partition = partition._refined(points)
        return partition

    def _refined(self, points: Tensor) -> Partition:
        """One step of expectation maximisation; a region with few points keeps some of its shape, or all of it."""
        z = points[:, self.coordinates.line]
        dim = z.shape[1]
        weights = self.log_responsibilities(points).exp()
        mass = weights.sum(0)
        centres = weights.T @ z / mass.clamp_min(1e-300)[:, None]
        centred = z - centres[:, None]
        found = (weights.T[:, :, None] * centred).mT @ centred / mass.clamp_min(1e-300)[:, None, None]
        old = self.factors @ self.factors.mT
        trust = (mass / (mass + 4 * dim))[:, None, None]
        enough = mass >= 2 * dim
        centres = torch.where(enough[:, None], centres, self.centres)
        covariances = torch.where(enough[:, None, None], trust * found + (1 - trust) * old, old)
        log_shares = (mass / mass.sum()).clamp_min(SMALLEST_SHARE).log()
        return Partition(self.coordinates, centres, _factors(covariances, 1e-10), log_shares)


def _factors(covariances: Tensor, jitter: float) -> Tensor:
    diagonal = covariances.diagonal(dim1=1, dim2=2)
    return torch.linalg.cholesky(covariances + jitter * torch.diag_embed(diagonal))


def _separate(target: Pullback, modes: Tensor, limit: int) -> Tensor:
    """Numbers of maxima, best first, that no path without barrier connects to a better one among its neighbours."""
    kept: list[int] = []
    at = torch.linspace(0.1, 0.9, 7, dtype=modes.dtype)[:, None]
    values = target(modes) if len(modes) else modes[:, 0]
    for k in range(len(modes)):
        if len(kept) >= limit:
            break
        near = sorted(kept, key=lambda j: float((modes[k] - modes[j]).norm()))[:NEIGHBOURS]
        for j in near:
            path = target(modes[k] + at * (modes[j] - modes[k]))
            if float(path.min()) > float(torch.minimum(values[k], values[j])) - BARRIER:
                break
        else:
            kept.append(k)
    return torch.tensor(kept, dtype=torch.long)


def _neighbourhoods(z: Tensor, centres: Tensor) -> Tensor:
    """Covariances of the points nearest to every centre, shape (K, L, L)."""
    scale = z.std(0).clamp_min(1e-12)
    nearest = torch.cdist(z / scale, centres / scale).argmin(1)
    return torch.stack([_covariance(z[nearest == k], centre, z) for k, centre in enumerate(centres)])


def _covariance(points: Tensor, centre: Tensor, everything: Tensor) -> Tensor:
    """Shrunk to its diagonal; a tenth of the width of everything where there are no points to say."""
    dim = everything.shape[1]
    if len(points) < 2:
        return torch.diag(0.01 * everything.var(0))
    centred = points - centre
    trust = len(points) / (len(points) + 2 * dim)
    return trust * centred.T @ centred / len(points) + (1 - trust) * torch.diag(centred.square().mean(0) + 1e-12)
