"""The normal distribution between two walls: its quantiles as a map from the standard normal, and regression of what it describes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["from_normal", "log_mass", "scored", "to_normal"]

FAR = 36.0  # deviations beyond which a probability is nothing, and a wall is none
FARTHEST = 37.4  # from which on its number is no longer normal
NEAR = 1e-4  # from a wall, where a difference of probabilities would have lost its digits
REACH = 8.0  # of a mean beyond a wall
ROUNDS = 25
STEP = 1.0
ENOUGH = 1e-6  # nats per draw that another round would bring
HALVES = 4
RIDGE = 1e-6
_LOG_ROOT = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)


def from_normal(s: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The y between the walls with :math:`\Phi(s) = (\Phi(y) - \Phi(a)) / (\Phi(b) - \Phi(a))`.

    Args:
        s: standard normal, any shape.
        lower: a, of the same shape, finite and at most 8.
        upper: b, of the same shape, as large as one likes where there is none, at least -8.

    Returns:
        ``y``, its distance from ``a``, which has all its digits next to that wall, and ``log dy/ds``, all of that shape.

    >>> s, a, b = torch.tensor([[0.0, 0.0], [0.0, -9.0], [math.inf, 9.0]]).double()
    >>> [round(v, 4) for v in from_normal(s, a, b)[0].tolist()]  # the median of the half-normal distribution, and 0
    [0.6745, 0.0]
    """
    flip, a, b, log_d = _frame(lower, upper)
    r = torch.where(flip, -s, s)
    mass = log_d.exp()
    near_a, near_b = a.clamp(-FARTHEST, FARTHEST), b.clamp(-FARTHEST, FARTHEST)
    # Each half from its own end, where probabilities have all their digits.
    below = _ndtr(near_a) + _ndtr(r.clamp(-FAR, 0)) * mass
    above = _ndtr(-r.clamp(0, FAR)) * mass
    from_above = torch.where(
        b > 0,
        -_ndtri(_ndtr(-near_b) + above),
        _ndtri(_ndtr(near_b) - above),
    )
    y = torch.where(r <= 0, _ndtri(below), from_above)
    far = r.abs() > FAR
    safe = torch.where(far, r, FAR)
    tail = safe.sign() * (safe.square() - 2 * log_d).sqrt()
    y = torch.where(far, tail, y).maximum(a).minimum(b)
    slope = torch.where(far & (y == tail), torch.log(safe / tail), 0.5 * (y - r) * (y + r) + log_d)
    to_a = _distance(torch.special.log_ndtr(r.clamp_max(0)) + log_d, a, y - a)
    to_b = _distance(torch.special.log_ndtr(-r.clamp_min(0)) + log_d, -b, b - y)
    distance = torch.where(flip, torch.where(r > 0, to_b, b - y), torch.where(r > 0, y - a, to_a))
    return torch.where(flip, -y, y), distance.clamp_min(0), slope


def to_normal(y: Tensor, distance: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`from_normal`.

    Args:
        y: between the walls, any shape.
        distance: from the lower one, of the same shape.
        lower, upper: the walls, of the same shape.

    Returns:
        ``s`` and ``log ds/dy``, both of that shape.
    """
    flip, a, b, log_d = _frame(lower, upper)
    z = torch.where(flip, -y, y)
    near_a, near_b, inner = a.clamp(-FARTHEST, FARTHEST), b.clamp(-FARTHEST, FARTHEST), z.clamp(-FARTHEST, FARTHEST)
    to_a = torch.where(flip, z - a, distance)
    to_b = torch.where(flip, distance, b - z)
    below = _ndtr(inner) - _ndtr(near_a)
    above = torch.where(
        b > 0,
        _ndtr(-inner) - _ndtr(-near_b),
        _ndtr(near_b) - _ndtr(inner),
    )
    below, above = _probability(to_a, a, below), _probability(to_b, -b, above)
    below, above = below * torch.exp(-log_d), above * torch.exp(-log_d)
    r = torch.where(below < 0.5, _ndtri(below), -_ndtri(above))
    edge = (FAR**2 - 2 * log_d).sqrt()
    far = z.abs() > edge
    safe = torch.where(far, z, edge)
    tail = safe.sign() * (safe.square() + 2 * log_d).sqrt()
    r = torch.where(far, tail, r)
    return torch.where(flip, -r, r), torch.where(far, torch.log(safe / tail), 0.5 * (r - z) * (r + z) - log_d)


def _ndtr(x: Tensor) -> Tensor:
    """Φ; torch's own is half of one plus an error function, and loses its digits on the left."""
    return 0.5 * torch.erfc(-_ROOT_HALF * x)


def _ndtri(p: Tensor) -> Tensor:
    """Its inverse, which is finite, and whose derivative is."""
    kind = torch.finfo(p.dtype)
    return torch.special.ndtri(p.clamp(kind.tiny, 1 - kind.eps))


def log_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Φ(b) - Φ(a)), any shape."""
    return _frame(lower, upper)[3]


def _frame(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether to look from the other side, so that the lower wall is the farther one; the walls so, and the log mass between them."""
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    near_a, near_b = a.clamp(-FARTHEST, FARTHEST), b.clamp(-FARTHEST, FARTHEST)
    outside = _ndtr(near_a)
    mass = torch.where(b > 0, 1 - outside - _ndtr(-near_b), _ndtr(near_b) - outside)
    return flip, a, b, mass.clamp_min(torch.finfo(mass.dtype).tiny).log()


def _distance(log_probability: Tensor, wall: Tensor, otherwise: Tensor) -> Tensor:
    r"""The d with :math:`\int_0^d \varphi(a + u) du` a small probability."""
    near = wall.clamp(-FAR, FAR)
    x = torch.exp((log_probability + 0.5 * near.square() + _LOG_ROOT).clamp(-690.0, 0.0))
    series = x * (1 + x * (0.5 * near + x * (2 * near.square() + 1) / 6))
    return torch.where((wall.abs() < FAR) & (x * (1 + near.abs()) < NEAR), series, otherwise)


def _probability(distance: Tensor, wall: Tensor, otherwise: Tensor) -> Tensor:
    """The inverse of :func:`_distance`."""
    d, near = distance.clamp(0.0, NEAR), wall.clamp(-FAR, FAR)
    series = d * (1 - d * (0.5 * near - d * (near.square() - 1) / 6))
    small = series * torch.exp(-0.5 * near.square() - _LOG_ROOT)
    return torch.where((wall.abs() < FAR) & (distance * (1 + near.abs()) < NEAR), small, otherwise)


# -- regression ----------------------------------------------------------------------------------------------------------


def scored(
    z: Tensor, lower: float, upper: float, mean: Tensor, log_scale: Tensor, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    r"""Coefficients of the highest likelihood of :math:`z \sim N(A\beta, e^{2 B\gamma})` between two walls, by Fisher's scoring.

    With :math:`y = (z - \mu)/\sigma` the scores are :math:`(y - E y)/\sigma` and :math:`y^2 - E y^2`, and what is expected of their squares
    are moments of the truncated distribution, by recursion.

    Args:
        z: shape (N,).
        lower, upper: the walls; either may be as far as one likes.
        mean: the columns A, shape (N, k).
        log_scale: the columns B, shape (N, l).
        start: β (k,) and γ (l,).

    Returns:
        β and γ; nothing is lost by them.

    References:
        Amemiya, Regression analysis when the dependent variable is truncated normal (1973).
    """
    beta, gamma = start
    best = float(_likelihood(z, lower, upper, mean @ beta, log_scale @ gamma).mean())
    size = len(beta)
    for _ in range(ROUNDS):
        mu, ell = settled(mean @ beta, log_scale @ gamma, lower, upper)
        sigma = ell.exp()
        y, a, b = (z - mu) / sigma, (lower - mu) / sigma, (upper - mu) / sigma
        m1, m2, m3, m4 = _moments(a, b)
        # A mean that has been settled goes with the scale, and a scale that has been settled with nothing.
        along = (mu - mean @ beta) / sigma
        along = torch.where(along == 0, 0.0, REACH * along.sign())
        design = [
            torch.where(along == 0, 1 / sigma, 0.0)[:, None] * mean,
            (ell == log_scale @ gamma)[:, None] * log_scale,
        ]
        score = torch.cat([design[0].T @ (y - m1), design[1].T @ (y.square() - m2 + along * (y - m1))]) / len(z)
        first, both, second = m2 - m1.square(), m3 - m1 * m2, m4 - m2.square()
        weights = [
            first.clamp_min(1e-9),
            both + along * first,
            (second + along * (2 * both + along * first)).clamp_min(1e-9),
        ]
        cross = (design[0] * weights[1][:, None]).T @ design[1]
        top = torch.cat([(design[0] * weights[0][:, None]).T @ design[0], cross], 1)
        bottom = torch.cat([cross.T, (design[1] * weights[2][:, None]).T @ design[1]], 1)
        information = torch.cat([top, bottom]) / len(z)
        information += torch.diag(RIDGE * information.diagonal() + 1e-12)
        trials = []
        # Means and scales together, and either alone: next to where they are settled, together they are in each other's way.
        for some in (slice(None), slice(size), slice(size, None)):
            step = torch.zeros_like(score)
            step[some] = torch.linalg.lstsq(information[some, some], score[some, None]).solution[:, 0]
            step = step * min(1.0, STEP / max(float(step[size:].abs().max()), 1e-12))
            trials += [(beta + step[:size] / 2**k, gamma + step[size:] / 2**k) for k in range(HALVES)]
        values = [float(_likelihood(z, lower, upper, mean @ b, log_scale @ c).mean()) for b, c in trials]
        reached = max(range(len(trials)), key=values.__getitem__)
        if not values[reached] > best + ENOUGH:
            break
        (beta, gamma), best = trials[reached], values[reached]
    return beta, gamma


def settled(mean: Tensor, log_scale: Tensor, lower: Tensor | float, upper: Tensor | float) -> tuple[Tensor, Tensor]:
    """Means no further than 8 deviations beyond a wall, and deviations of at most 30 times what lies between the walls.

    There the distribution is exponential, or uniform, within a few per cent, and further out differences would lose their digits.
    """
    between = torch.as_tensor(upper - lower, dtype=mean.dtype, device=mean.device)
    log_scale = torch.minimum(log_scale, (30 * between).log())
    reach = REACH * log_scale.exp()
    return torch.minimum(torch.maximum(mean, lower - reach), upper + reach), log_scale


def _likelihood(z: Tensor, lower: float, upper: float, mean: Tensor, log_scale: Tensor) -> Tensor:
    mu, ell = settled(mean, log_scale, lower, upper)
    sigma = ell.exp()
    return -0.5 * ((z - mu) / sigma).square() - ell - log_mass((lower - mu) / sigma, (upper - mu) / sigma)


def _moments(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""E y to E y⁴ between the walls: :math:`m_k = (k - 1) m_{k-2} + (a^{k-1} \varphi(a) - b^{k-1} \varphi(b)) / (\Phi(b) - \Phi(a))`."""
    log_d = log_mass(a, b)
    a, b = a.clamp(-FARTHEST, FARTHEST), b.clamp(-FARTHEST, FARTHEST)
    at_a, at_b = (torch.exp(-0.5 * wall.square() - _LOG_ROOT - log_d) for wall in (a, b))
    m1 = at_a - at_b
    m2 = 1 + a * at_a - b * at_b
    m3 = 2 * m1 + a.square() * at_a - b.square() * at_b
    m4 = 3 * m2 + a**3 * at_a - b**3 * at_b
    return m1, m2, m3, m4
