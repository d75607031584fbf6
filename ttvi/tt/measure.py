"""Product measures seen through a basis: quadrature rules, and frames in which moments are plain norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from ..errors import SupportError
from .algebra import add, inner, ones, scale
from .basis import Basis, Hermite, Piecewise
from .canonical import orthogonalize
from .rebase import map_modes
from .train import TensorTrain

__all__ = ["Measure", "frames", "moments"]

Measure = Distribution | tuple[Tensor, Tensor] | None
"""Of one coordinate: a univariate distribution, points and weights, or ``None`` for the default of its basis."""

REACH = 12.0  # Hermite functions beyond their last turning point by this many scales are zero
MISSING = 1e-6  # mass that a distribution may have outside a bounded support
STEPS = 200  # of a double exponential rule, to begin with; it is good for end-point singularities too
MOST_STEPS = 1 << 15
SETTLED = 1e-13  # change of the Gram matrix from one rule to the next


def frames(
    bases: Sequence[Basis], measures: Sequence[Measure] | None, dtype: torch.dtype, device: torch.device, caller: str
) -> list[Tensor]:
    r"""Coordinates of the basis functions, and of the constant 1, in an orthonormal basis of :math:`L^2(\mu_k)`.

    With ``R`` of shape ``(m, n + 1)``, :math:`\int \varphi_i \varphi_j \, d\mu = (R^T R)_{ij}`; the last column stands for
    the constant. Means are inner products with it, and variances are norms: nothing cancels.

    Raises:
        ValueError, TypeError: a measure is none, or there are too few.
        SupportError: a distribution has mass outside a bounded support.
    """
    if measures is None:
        measures = [None] * len(bases)
    if isinstance(measures, Distribution) or len(measures) != len(bases):
        got = type(measures).__name__ if isinstance(measures, Distribution) else f"{len(measures)} entries"
        raise ValueError(
            f"{caller}: expected one measure per coordinate, {len(bases)} in all; got {got}. Pass a list; None is the default."
        )
    return [_frame(b, m, k, dtype, device, caller) for k, (b, m) in enumerate(zip(bases, measures, strict=True))]


def moments(train: TensorTrain, factors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of a functional train, in the frames of a product measure."""
    framed = map_modes(train, [r[:, :-1] for r in factors])
    constant = ones([r[:, -1] for r in factors])
    mean = inner(framed, constant)
    centred = orthogonalize(add(framed, scale(constant, -mean)))
    return mean, centred.cores[0].square().sum() * (2 * centred.log_scale).exp()


def _frame(basis: Basis, measure: Any, k: int, dtype: torch.dtype, device: torch.device, caller: str) -> Tensor:
    if measure is None and isinstance(basis, Hermite):
        measure = Normal(torch.tensor(basis.loc, dtype=torch.float64), torch.tensor(basis.scale, dtype=torch.float64))
    if measure is None:
        x, mass = _uniform(basis)
    elif isinstance(measure, Distribution):
        x, mass = _distribution(basis, measure, k, caller)
    elif isinstance(measure, tuple) and len(measure) == 2:
        x, mass = (torch.as_tensor(part).detach().to("cpu", torch.float64) for part in measure)
        if x.dim() != 1 or x.shape != mass.shape or not bool((mass >= 0).all()) or not float(mass.sum()) > 0:
            raise ValueError(
                f"{caller}: expected points and weights >= 0 of one shape (q,) for coordinate {k}; "
                f"got {tuple(x.shape)} and {tuple(mass.shape)}. Weights are normalised for you."
            )
        mass = mass / mass.sum()
    else:
        raise TypeError(
            f"{caller}: expected a univariate distribution, a pair (points, weights) or None for coordinate {k}; "
            f"got {type(measure).__name__}. E.g. torch.distributions.Uniform(0.0, 1.0)."
        )
    phi = torch.cat([basis(x), torch.ones_like(x)[:, None]], 1)
    rest = (1 - mass.sum()).clamp_min(0)  # where the functions of a line basis have died out, only the constant is left
    phi = torch.cat([phi, torch.eye(phi.shape[1], dtype=phi.dtype)[-1:]])
    root = torch.cat([mass, rest[None]]).sqrt()
    return torch.linalg.qr(phi * root[:, None], mode="r").R.to(device, dtype)


def _uniform(basis: Basis) -> tuple[Tensor, Tensor]:
    """A rule that integrates products of two basis functions exactly."""
    fine = basis.with_size(2 * basis._require_size())
    return fine.nodes(), fine.weights() / fine.weights().sum()


def _distribution(basis: Basis, measure: Distribution, k: int, caller: str) -> tuple[Tensor, Tensor]:
    """Nodes and masses of a univariate distribution on the support of a basis."""
    if measure.event_shape or measure.batch_shape.numel() != 1:
        raise ValueError(
            f"{caller}: expected a univariate distribution for coordinate {k}; got batch {tuple(measure.batch_shape)}, "
            f"event {tuple(measure.event_shape)}. Pass one distribution per coordinate."
        )
    x, mass = _masses(basis, measure)
    total = float(mass.sum())
    if isinstance(basis, Hermite):
        return x, mass / max(1.0, total)
    if not 1 - total <= MISSING:
        raise SupportError(
            f"{caller}: expected the measure of coordinate {k} to live on the support of {basis!r}; {1 - total:.1e} of its mass "
            "does not. Widen the basis, or pass (points, weights)."
        )
    return x, mass / total


def _masses(basis: Basis, measure: Distribution) -> tuple[Tensor, Tensor]:
    """Nodes and masses, on finer and finer rules until the Gram matrix of the basis functions settles."""
    if basis.discrete:
        return basis.nodes(), _density(measure, basis.nodes())
    count, gram = STEPS, None
    while True:
        x, weight = _double_exponential(basis, measure, count)
        mass = _density(measure, x) * weight
        phi = torch.cat([basis(x), torch.ones_like(x)[:, None]], 1)
        before, gram = gram, phi.T @ (phi * mass[:, None])
        settled = before is not None and bool((gram - before).abs().max() <= SETTLED * gram.abs().max())
        if (settled and float(mass.sum()) > 1 - MISSING) or count >= MOST_STEPS:
            return x, mass
        count *= 2


def _density(measure: Distribution, x: Tensor) -> Tensor:
    """Densities in the precision of the distribution's own parameters; zero where they are not defined."""
    support = measure.support
    inside = support.check(x) if support is not None else torch.ones_like(x, dtype=torch.bool)
    safe = x[inside]
    logs = measure.log_prob(safe).detach().reshape(-1).to(x.dtype)
    return torch.zeros_like(x).masked_scatter(inside, torch.where(torch.isfinite(logs), logs.exp(), 0.0))


def _double_exponential(basis: Basis, measure: Distribution, count: int) -> tuple[Tensor, Tensor]:
    """Tanh-sinh rules between the ends of the support of the measure and the element ends of the basis."""
    size = basis._require_size()
    if isinstance(basis, Hermite):
        reach = basis.scale * (math.sqrt(2 * size + 1) + REACH)
        lower, upper = basis.loc - reach, basis.loc + reach
    else:
        lower, upper = basis.lower, basis.upper  # type: ignore[attr-defined]
    ends = [
        float(getattr(measure.support, name, value)) for name, value in (("lower_bound", lower), ("upper_bound", upper))
    ]
    lower, upper = max(lower, ends[0]), min(upper, ends[1])
    cuts = [lower, upper]
    if isinstance(basis, Piecewise):
        inner = (basis.lower + j * basis.element_length for j in range(1, basis.elements))
        cuts = [lower, *(c for c in inner if lower < c < upper), upper]
    t = torch.linspace(-3.4, 3.4, count, dtype=torch.float64)
    y = torch.tanh(0.5 * math.pi * torch.sinh(t))
    w = 0.5 * math.pi * torch.cosh(t) / torch.cosh(0.5 * math.pi * torch.sinh(t)).square() * (6.8 / (count - 1))
    parts = [(0.5 * (a + b) + 0.5 * (b - a) * y, 0.5 * (b - a) * w) for a, b in zip(cuts, cuts[1:]) if b > a]
    if not parts:
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    return torch.cat([x for x, _ in parts]), torch.cat([weight for _, weight in parts])
