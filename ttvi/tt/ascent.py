"""Maximum likelihood for the square of a train: natural-gradient sweeps over its cores, data on both sides cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows", "Sweeper", "log_mixture", "log_square"]

# Of the line search, in natural steps. Heron's iteration keeps a positive g positive up to 1; a new zero among the data
# would be a trap, and longer steps, tried on mixtures, do run into it.
STEPS = (0.0, 0.001, 0.01, 0.05, 0.125, 0.25, 0.5, 0.75, 1.0)
OVERSAMPLING = 4
CLIP = 10.0  # one row pulls at a core by at most so many times what rows of a fitted density do
PRUNE = 1.0  # a rank goes whose energy is below this multiple of what noise would give it
STIFFEST = (
    20.0  # penalty of a mode that carries nothing, in units of its information: it shrinks tenfold and may come back
)
FOLD = 1 << 26  # entries of the largest product of interface and features kept at once


@dataclass(frozen=True)
class Rows:
    """Data as a sweep needs them.

    Attributes:
        features: the modes of every basis at the data, shapes ``(m, n_k)``.
        reference: log-density of the reference at the data, shape ``(m,)``.
        weight: of every row, shape ``(m,)``, sum one.
    """

    features: list[Tensor]
    reference: Tensor
    weight: Tensor

    def reversed(self) -> Rows:
        """The same data for the train read from its end."""
        return Rows(self.features[::-1], self.reference, self.weight)

    def head(self, count: int) -> Rows:
        """The first rows only."""
        if count >= len(self.weight):
            return self
        weight = self.weight[:count]
        return Rows([f[:count] for f in self.features], self.reference[:count], weight / weight.sum())


class _Fold:
    """The matrix of products of left interface and features, shape ``(m, r n)``, in blocks of rows if it is large."""

    def __init__(self, left: Tensor, features: Tensor) -> None:
        size = max(1, FOLD // (left.shape[1] * features.shape[1]))
        self._parts = list(zip(left.split(size), features.split(size), strict=True))
        self._size = size
        self.norms = torch.linalg.vector_norm(features, dim=1).clamp_min(torch.finfo(features.dtype).tiny)
        self._kept = self._product(*self._parts[0]) if len(self._parts) == 1 else None

    @staticmethod
    def _product(left: Tensor, features: Tensor) -> Tensor:
        return (left.unsqueeze(2) * features.unsqueeze(1)).flatten(1)

    def times(self, matrix: Tensor) -> Tensor:
        """``(r n, s)`` to ``(m, s)``."""
        if self._kept is not None:
            return self._kept @ matrix
        return torch.cat([self._product(*part) @ matrix for part in self._parts])

    def adjoint(self, rows: Tensor) -> Tensor:
        """``(m, s)`` to ``(r n, s)``."""
        if self._kept is not None:
            return self._kept.T @ rows
        products = (
            self._product(*part).T @ block for part, block in zip(self._parts, rows.split(self._size), strict=True)
        )
        return torch.stack(list(products)).sum(0)


def _smoothed(values: Tensor) -> Tensor:
    """Means with both neighbours: the energy of one mode alone is noisy."""
    padded = torch.cat([values[:1], values, values[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _flip(cores: Sequence[Tensor]) -> list[Tensor]:
    """The cores of the train read from its end."""
    return [core.permute(2, 1, 0) for core in reversed(cores)]


def _unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / norm, norm[:, 0].log()


def _log_squared(values: Tensor) -> Tensor:
    return 2 * values.abs().clamp_min(torch.finfo(values.dtype).tiny).log()


def log_square(cores: Sequence[Tensor], data: Rows) -> Tensor:
    """Log-density of the normalised square at the data, shape ``(m,)``; cores with the center first."""
    state, logs = data.reference.new_ones(len(data.reference), 1), torch.zeros_like(data.reference)
    for core, features in zip(cores, data.features, strict=True):
        state, log = _unit_rows(_Fold(state, features).times(core.flatten(0, 1)))
        logs = logs + log
    return 2 * logs + _log_squared(state[:, 0]) - cores[0].square().sum().log()


def log_mixture(square: Tensor, data: Rows, share: float) -> Tensor:
    """Log-density of the mixture with the reference."""
    return torch.logaddexp(square + math.log1p(-share), data.reference + math.log(share))


def _natural_step(
    core: Tensor, fold: _Fold, right: Tensor, logs: Tensor, data: Rows, cost: _Cost, share: float
) -> tuple[Tensor, Tensor]:
    r"""One natural-gradient step for one core, of unit norm, with a line search on the penalised likelihood.

    With everything else orthonormal, g is linear in the core c, :math:`g(x_i) = a_i \cdot c`, and the Fisher information
    is four times the identity. The step is therefore
    :math:`\delta = (2 + D)^{-1}[(1 + \rho)\,\overline{w a / g} - \bar w (1 + D) c] / \bar w`, with the penalty D,
    :math:`\rho = c \cdot D c` and the responsibilities w of the square: without penalty Heron's iteration for a square root,
    of the empirical density.

    Returns:
        The core and its values ``g`` at the data up to ``exp(logs)``.
    """
    shape = core.shape
    core = core / core.norm()
    keep, floor = math.log1p(-share), data.reference + math.log(share)
    g = (fold.times(core.flatten(0, 1)) * right).sum(1)
    most = data.weight * (CLIP * math.sqrt(core.numel()) / fold.norms).clamp_max(1e30)
    pull = torch.minimum(torch.maximum(_pull(g, logs, data, share), -most), most)
    gradient = fold.adjoint(right * pull[:, None]).view(shape)
    log_sq = _log_squared(g) + 2 * logs + keep
    mean = (data.weight * (log_sq - torch.logaddexp(log_sq, floor)).exp()).sum().clamp_min(1e-3)
    u, d = cost.rotate(core), cost.diagonal
    rho = (d * u * u).sum()
    delta = ((1 + rho) * cost.rotate(gradient) / mean - (1 + d) * u) / (2 + d)
    direction = cost.rotate_back(delta)
    h = (fold.times(direction.flatten(0, 1)) * right).sum(1)
    t = g.new_tensor(STEPS)
    norms = 1 + 2 * t * (u * delta).sum() + t * t * delta.square().sum()
    penalties = rho + 2 * t * (d * u * delta).sum() + t * t * (d * delta * delta).sum()
    moved = g[:, None] + t * h[:, None]
    values = _log_squared(moved) + 2 * logs[:, None] + (keep - norms.log())
    scores = data.weight @ torch.logaddexp(values, floor[:, None]) - torch.log1p(penalties / norms)
    best = t[torch.where(torch.isfinite(scores), scores, -torch.inf).argmax()]
    core, g = core + best * direction, g + best * h
    norm = core.norm()
    return core / norm, g / norm


def _pull(g: Tensor, logs: Tensor, data: Rows, share: float) -> Tensor:
    """Weights of the rows times responsibility over ``g``: bounded, because the reference takes over where g vanishes."""
    log_sq = _log_squared(g) + 2 * logs + math.log1p(-share)
    part = data.weight * (log_sq - torch.logaddexp(log_sq, data.reference + math.log(share))).exp()
    return torch.where(part > 0, part / g, 0.0)


class _Cost:
    """The penalty as a quadratic form of one core, diagonal after rotations of its two ranks."""

    def __init__(self, left: Tensor, own: Tensor, right: Tensor, weight: float) -> None:
        a, self._left = torch.linalg.eigh(left)
        b, self._right = torch.linalg.eigh(right)
        self.diagonal = weight * (a.clamp_min(0)[:, None, None] + own[:, None] + b.clamp_min(0))

    def rotate(self, core: Tensor) -> Tensor:
        return torch.einsum("ra,rns,sb->anb", self._left, core, self._right)

    def rotate_back(self, core: Tensor) -> Tensor:
        return torch.einsum("ra,anb,sb->rns", self._left, core, self._right)


@dataclass
class _Bond:
    """What lies right of a mode: later cores at the data (rows of unit norm, and logarithms), and their penalty."""

    values: Tensor
    logs: Tensor
    penalty: Tensor


def _bonds(cores: Sequence[Tensor], data: Rows, penalties: Sequence[Tensor]) -> list[_Bond]:
    zero = data.reference.new_zeros(1, 1)
    bonds = [_Bond(torch.ones_like(data.reference)[:, None], torch.zeros_like(data.reference), zero)]
    for core, features, penalty in zip(cores[:0:-1], data.features[:0:-1], penalties[:0:-1], strict=True):
        last = bonds[-1]
        values, log = _unit_rows(_Fold(last.values, features).times(core.permute(2, 1, 0).flatten(0, 1)))
        bonds.append(_Bond(values, last.logs + log, _grown_penalty(core.permute(2, 1, 0), last.penalty, penalty)))
    return bonds[::-1]


def _grown_penalty(core: Tensor, environment: Tensor, penalty: Tensor) -> Tensor:
    """The penalty of the modes on one side, one mode more: shape ``(s, s)``."""
    flat = core.flatten(0, 1)
    moved = torch.einsum("rt,tnu->rnu", environment, core) + penalty[:, None] * core
    result = flat.T @ moved.flatten(0, 1)
    return 0.5 * (result + result.T)


class Sweeper:
    r"""Half-sweeps that raise :math:`\overline{\log q} - \log(1 + \lambda \langle g, \sum_k \nu_k^2\, g \rangle)`, ‖g‖ = 1.

    The penalty is Good's roughness :math:`\int (\partial \sqrt p)^2`, in the frequencies :math:`\nu` of the bases. Cost of a
    half-sweep :math:`O(d\, m\, n\, r^2)` for ``m`` rows.

    Args:
        penalties: squared frequencies of the modes, shapes ``(n_k,)``.
        max_rank: cap on every rank.
        generator: of the sketches in which ranks grow.

    Attributes:
        energies: squared norm of every mode's coefficients after the last sweep, shapes ``(n_k,)``.
        freedom: effective number of parameters of every mode, shapes ``(n_k,)``.

    References:
        Good, Gaskins: Nonparametric roughness penalties for probability densities (1971).
        Amari: Natural gradient works efficiently in learning (1998).
        MacKay: Bayesian interpolation (1992).
        Han, Wang, Fan, Wang, Zhang: Unsupervised generative modeling using matrix product states (2018).
        Dolgov, Savostyanov: Alternating minimal energy methods for linear systems in higher dimensions (2014).
    """

    def __init__(self, penalties: list[Tensor], max_rank: int, generator: torch.Generator | None) -> None:
        self.penalties, self.max_rank, self.generator = list(penalties), max_rank, generator
        self.energies, self.freedom = list(penalties), list(penalties)

    def sweep(self, cores: list[Tensor], data: Rows, weight: float, share: float, growth: int) -> list[Tensor]:
        """To the last core and back; the ranks grow by up to ``growth`` on the way there."""
        cores = self._half(cores, data, self.penalties, weight, share, growth)
        return _flip(
            self._half(_flip(cores), data.reversed(), self.penalties[::-1], weight, share, 0, True, growth == 0)
        )

    @property
    def tails(self) -> tuple[float, ...]:
        """Energy in the last third of the modes, per coordinate."""
        return tuple(float(energy[len(energy) - len(energy) // 3 :].sum()) for energy in self.energies)

    def learn(self, count: float, factor: float, weight: float) -> None:
        r"""Set each penalty by what its modes turned out to carry, as the evidence of a Gaussian prior would.

        The log-likelihood of ``count`` rows has curvature :math:`4m` in every coefficient, the penalty adds
        :math:`2 m \lambda \nu^2`. A mode of energy E with :math:`\gamma` effective parameters then wants
        :math:`\lambda \nu^2 = \gamma / 2 m E`: little where it stands out of the noise, much where it does not.

        Args:
            count: effective number of rows.
            factor: by which all are multiplied.
            weight: :math:`\lambda`.
        """
        for k, penalty in enumerate(self.penalties):
            if bool((penalty > 0).any()):  # finite sets have no rough functions
                energy, freedom = (_smoothed(value[k]) for value in (self.energies, self.freedom))
                tiny = torch.finfo(energy.dtype).tiny
                wanted = factor * freedom / (2 * count * energy).clamp_min(tiny)
                self.penalties[k] = wanted.clamp_max(STIFFEST) / weight

    def _half(
        self,
        cores: list[Tensor],
        data: Rows,
        penalties: list[Tensor],
        weight: float,
        share: float,
        growth: int,
        backwards: bool = False,
        prune: bool = False,
    ) -> list[Tensor]:
        bonds, cores = _bonds(cores, data, penalties), list(cores)
        done: list[Tensor] = []
        left, logs = torch.ones_like(data.reference)[:, None], torch.zeros_like(data.reference)
        left_penalty = data.reference.new_zeros(1, 1)
        for k, core in enumerate(cores):
            fold, bond = _Fold(left, data.features[k]), bonds[k]
            cost = _Cost(left_penalty, penalties[k], bond.penalty, weight)
            core, g = _natural_step(cores[k], fold, bond.values, logs + bond.logs, data, cost, share)
            r, n, s = core.shape
            if backwards:  # the center: its entries show what each mode carries
                self.energies[-1 - k] = core.square().sum((0, 2))
                self.freedom[-1 - k] = (2 / (2 + cost.diagonal)).sum((0, 2))
            if k == len(cores) - 1:
                return [*done, core]
            u, values, vh = torch.linalg.svd(core.reshape(r * n, s), full_matrices=False)
            least = 10 * torch.finfo(values.dtype).eps * values[0]
            if prune:
                noise = self._degrees(cost, penalties[k + 1], bonds[k + 1].penalty, weight, (r, s)) / (4 * len(logs))
                least = torch.maximum(least, (PRUNE * noise).sqrt())
            kept = max(1, int((values > least).sum()))
            u = u[:, :kept]
            room = min(self.max_rank, r * n, cores[k + 1].shape[1] * cores[k + 1].shape[2]) - kept
            if growth and room > 0:
                pull = _pull(g, logs + bond.logs, data, share) * (bonds[k + 1].logs - bond.logs).clamp_max(30.0).exp()
                right = _Fold(bonds[k + 1].values, data.features[k + 1])
                damping = 1 / (2 + weight * (left_penalty.diagonal()[:, None] + penalties[k])).reshape(-1, 1)
                far = bonds[k + 1].penalty.diagonal()[:, None] + penalties[k + 1]
                fresh = self._directions(
                    fold, right, pull, damping, 1 / (2 + weight * far).reshape(-1, 1), u, min(growth, room)
                )
                u = torch.linalg.qr(torch.cat([u, fresh], 1)).Q
            q = u.reshape(r, n, -1)
            cores[k + 1] = torch.tensordot(u.T @ core.reshape(r * n, s), cores[k + 1], 1)
            left_penalty = _grown_penalty(q, left_penalty, penalties[k])
            left, log = _unit_rows(fold.times(u))
            logs = logs + log
            done.append(q)
        raise AssertionError("there is always a last core")

    @staticmethod
    def _degrees(cost: _Cost, penalty: Tensor, far: Tensor, weight: float, shape: tuple[int, int]) -> Tensor:
        """Effective number of parameters that one more rank between two modes brings."""
        right = weight * (penalty[:, None] + far.diagonal())
        return (2 / (2 + cost.diagonal)).sum() / shape[1] + (2 / (2 + right)).sum()

    def _directions(
        self, fold: _Fold, right: _Fold, pull: Tensor, rows: Tensor, columns: Tensor, u: Tensor, count: int
    ) -> Tensor:
        """Leading left singular vectors, outside the span of ``u``, of the gradient with respect to two cores at once."""

        def off(y: Tensor) -> Tensor:
            return y - u @ (u.T @ y)

        def times(x: Tensor) -> Tensor:
            return off(rows * fold.adjoint(pull[:, None] * right.times(columns * x)))

        def adjoint(y: Tensor) -> Tensor:
            return columns * right.adjoint(pull[:, None] * fold.times(rows * off(y)))

        sketch = torch.randn(
            len(columns), count + OVERSAMPLING, dtype=u.dtype, device=u.device, generator=self.generator
        )
        basis = torch.linalg.qr(times(sketch)).Q
        image = times(torch.linalg.qr(adjoint(basis)).Q)
        return off(torch.linalg.svd(image, full_matrices=False).U[:, :count])
