"""The von Mises distribution: its quantiles as a smooth map of the circle, and regression of one angle on others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["features", "from_uniform", "regress", "to_uniform"]

MOST = 12.0  # concentration up to which it is the distribution itself
TERMS = 32  # of the Fourier series, enough for that
NOTHING = 1e-18  # of a ratio
NEWTON = 60
CLOSE = 1e-5  # of a step, whose cube is nothing
RIDGE = 1e-9  # a concentration of a million is as far as a perfect fit goes
SPEAKS = 8.0  # twice the gain of likelihood that a pair of coefficients must bring: 2 per cent of the useless ones do
TOGETHER = 0.5  # of the largest gain, from which on others enter in the same round
ROUNDS = 8


def to_uniform(angle: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    r"""What is uniform if an angle around zero is von Mises: :math:`u = \theta + 2 \sum_j r_j \sin(j\theta)/j`, :math:`r_j = I_j(\kappa)/I_0(\kappa)`.

    Beyond a concentration of 12 a Möbius map of the circle, :math:`\tan(\theta/2) \mapsto a \tan(\theta/2)` with
    :math:`a = \sqrt{\kappa/12}`, makes it about 12 first: no concentration is too large, and tails are somewhat heavier.

    Args:
        angle: in [-π, π], any shape.
        concentration: κ, not negative, of the same shape.

    Returns:
        ``u`` in [-π, π] and ``log du/dθ``, both of that shape.

    References:
        Mardia and Jupp, Directional Statistics (2000), section 3.5.4.

    >>> u, log_slope = to_uniform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0]))
    >>> [round(v, 4) for v in u.tolist()]
    [0.0, 2.4478]
    """
    angle, outer = _moebius(angle, (concentration / MOST).clamp_min(1.0).sqrt())
    kappa = concentration.clamp_max(MOST)
    return _series(angle, _ratios(kappa)), outer + _log_density(angle, kappa)


def from_uniform(u: Tensor, concentration: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`to_uniform`: the quantiles, differentiable in both arguments.

    Args:
        u: in [-π, π], any shape.
        concentration: of the same shape.

    Returns:
        The angle in [-π, π] and ``log dθ/du``.
    """
    kappa = concentration.clamp_max(MOST)
    ratios = _ratios(kappa)
    with torch.no_grad():
        angle = _solve(u.detach(), kappa.detach(), [r.detach() for r in ratios])
    if torch.is_grad_enabled() and (u.requires_grad or concentration.requires_grad):
        # One step of Newton's method from the solution is the solution, and has its derivatives.
        slope = _log_density(angle, kappa).exp().detach()
        angle = angle - (_series(angle, ratios) - u) / slope
    slope = _log_density(angle, kappa)
    angle, outer = _moebius(angle, (concentration / MOST).clamp_min(1.0).rsqrt())
    return angle, outer - slope


def _solve(u: Tensor, kappa: Tensor, ratios: list[Tensor]) -> Tensor:
    """Halley's method, and halves of the bracket where it leaves that."""
    low, high = torch.full_like(u, -math.pi), torch.full_like(u, math.pi)
    # As if it were normal, where it is concentrated.
    level = (0.5 + u / (2 * math.pi)).clamp(1e-12, 1 - 1e-12)
    narrow = (torch.special.ndtri(level) * kappa.clamp_min(1e-3).rsqrt()).clamp(-math.pi, math.pi)
    angle = torch.where(kappa > 2, narrow, u)
    for _ in range(NEWTON):
        error = _series(angle, ratios) - u
        low, high = torch.where(error < 0, angle, low), torch.where(error > 0, angle, high)
        step = error * torch.exp(-_log_density(angle, kappa))
        step = angle - step / (1 + 0.5 * step * kappa * torch.sin(angle))
        step = torch.where((step >= low) & (step <= high), step, 0.5 * (low + high))
        moved, angle = (step - angle).abs(), step
        if not bool((moved > CLOSE).any()):
            break
    return angle


def _moebius(angle: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """``2 atan(a tan(θ/2))`` and the log of its derivative."""
    sine, cosine = torch.sin(0.5 * angle), torch.cos(0.5 * angle)
    return 2 * torch.atan2(factor * sine, cosine), factor.log() - (cosine.square() + (factor * sine).square()).log()


def _ratios(kappa: Tensor) -> list[Tensor]:
    """I_j/I_0 for j = 1 … 32, or as many as are any number, by the recurrence for I_j/I_{j-1} from the last one back."""
    most, terms = 0.5 * float(kappa.detach().max()) if kappa.numel() else 0.0, 1
    least = most
    while terms < TERMS and least > NOTHING:
        terms += 1
        least *= most / terms  # (κ/2)^j / j! bounds the ratio
    steps: list[Tensor] = []
    last = torch.zeros_like(kappa)
    for j in range(terms, 0, -1):
        last = kappa / (2 * j + kappa * last)
        steps.append(last)
    ratios = [steps[-1]]
    for step in steps[-2::-1]:
        ratios.append(ratios[-1] * step)
    return ratios


def _series(angle: Tensor, ratios: list[Tensor]) -> Tensor:
    """Clenshaw's sum of the sines."""
    twice = 2 * torch.cos(angle)
    one, two = torch.zeros_like(angle), torch.zeros_like(angle)
    for j in range(len(ratios), 0, -1):
        one, two = ratios[j - 1] / j + twice * one - two, one
    return angle + 2 * torch.sin(angle) * one


def _log_density(angle: Tensor, kappa: Tensor) -> Tensor:
    """Of the von Mises distribution times 2π."""
    return kappa * (torch.cos(angle) - 1) - torch.special.i0e(kappa).log()


def features(unit: Tensor) -> Tensor:
    """What the direction of an angle may follow: one, and every other angle turning with it or against it.

    Args:
        unit: e^{iθ} of others, complex, shape (N, c).

    Returns:
        Shape (N, 1 + 2c): one, e^{iθ}, e^{-iθ}.
    """
    return torch.cat([unit.new_ones(len(unit), 1), unit, unit.conj()], 1)


def regress(unit: Tensor, given: Tensor, *, single: bool = False) -> tuple[Tensor, float]:
    r"""Regression of an angle: von Mises around the direction of :math:`z = \sum_j a_j f_j` with concentration :math:`|z|`.

    The likelihood :math:`\mathrm{Re}(\bar z e^{i\theta}) - \log I_0(|z|)` is concave in the :math:`a_j`; the features enter
    by what they add to it.

    Args:
        unit: e^{iθ}, complex, shape (N,).
        given: features f, complex, shape (N, k); the first one always takes part.
        single: no more than the one feature that says most.

    Returns:
        The coefficients a, complex, shape (k,), most of them zero; and the mean log-likelihood over that of a uniform angle,
        less half a logarithm of N per coefficient and draw.

    References:
        Breckling, The Analysis of Directional Time Series (1989); Mardia and Jupp, Directional Statistics (2000), chapter 11.

    >>> generator = torch.Generator().manual_seed(0)
    >>> other = torch.rand(2000, generator=generator, dtype=torch.float64) * 6
    >>> angle = 1.0 - other + 0.1 * torch.randn(2000, generator=generator, dtype=torch.float64)
    >>> found, _ = regress(torch.exp(1j * angle), features(torch.exp(1j * other[:, None])))
    >>> (found.abs() > 50).tolist(), round(float(found[2].angle()), 2)
    ([False, False, True], 1.0)
    """
    count, number = given.shape
    chosen = torch.zeros(number, dtype=torch.bool)
    chosen[(given.conj() * unit[:, None]).mean(0).abs().argmax() if single else 0] = True
    found = torch.zeros(number, dtype=given.dtype)
    found[chosen] = _newton(unit, given[:, chosen], found[chosen])
    for _ in range(0 if single else ROUNDS):
        z = given @ found
        length = z.abs().clamp_min(1e-9)
        ratio = _bessel_ratio(length)
        left = unit - ratio * z / length
        information = 0.5 * (1 - ratio.square()).mean().clamp_min(1e-12)
        gain = (given.conj() * left[:, None]).sum(0).abs().square() / (count * information)
        gain = torch.where(chosen, 0.0, gain)
        if float(gain.max()) < SPEAKS:
            break
        chosen = chosen | ((gain > SPEAKS) & (gain > TOGETHER * gain.max()))
        found[chosen] = _newton(unit, given[:, chosen], found[chosen])
    z = given @ found
    length = z.abs()
    value = (z.conj() * unit).real - length - torch.special.i0e(length).log()
    return found, float(value.mean()) - math.log(count) * int(chosen.sum()) / count


def _bessel_ratio(length: Tensor) -> Tensor:
    return torch.special.i1e(length) / torch.special.i0e(length)


def _newton(unit: Tensor, given: Tensor, start: Tensor) -> Tensor:
    """The coefficients of the highest likelihood, all features taking part."""
    number = given.shape[1]
    design = torch.stack([torch.cat([given.real, -given.imag], 1), torch.cat([given.imag, given.real], 1)], 1)
    observed = torch.stack([unit.real, unit.imag], 1)
    a = torch.cat([start.real, start.imag])

    def likelihood(a: Tensor) -> Tensor:
        z = design @ a
        length = z.norm(dim=1)
        value = (z * observed).sum(1) - length - torch.special.i0e(length).log()
        return value.sum() - 0.5 * RIDGE * a.square().sum()

    value = likelihood(a)
    for _ in range(NEWTON):
        z = design @ a
        length = z.norm(dim=1).clamp_min(1e-9)
        ratio, direction = _bessel_ratio(length), z / length[:, None]
        across = ratio / length
        along = 1 - across - ratio.square()
        slope = torch.einsum("nik,ni->k", design, observed - ratio[:, None] * direction) - RIDGE * a
        radial = torch.einsum("nik,ni->nk", design, direction)
        flat = design.flatten(0, 1)
        curvature = flat.T @ (flat * across.repeat_interleave(2)[:, None]) + radial.T @ (
            radial * (along - across)[:, None]
        )
        step = torch.linalg.solve(curvature + RIDGE * torch.eye(2 * number, dtype=a.dtype), slope)
        size, better = 1.0, likelihood(a + step)
        while not bool(better >= value) and size > 1e-6:
            size *= 0.5
            better = likelihood(a + size * step)
        if not bool(better >= value):
            break
        gained, a, value = float(better - value), a + size * step, better
        if gained < 1e-6:
            break
    return torch.complex(a[:number], a[number:])
