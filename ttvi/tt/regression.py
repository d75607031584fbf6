"""Functional trains from scattered data: regularised alternating least squares, judged on held-out points."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConvergenceWarning, SupportError
from .algebra import unit_scale
from .arguments import seeded
from .basis import Basis, Categorical, Fourier, Piecewise
from .canonical import orthogonalize, truncate
from .train import TensorTrain

__all__ = ["RegressionInfo", "RegressionRecord", "check_data", "fit_data"]

DEFAULT_SIZE = 12  # of bases without size: smoothness weights keep what the data do not determine small
PATH = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12)
SWEEPS = 8  # at most, per rank and regularisation
GAIN = 0.98  # a held-out error that falls by less is no progress
PATIENCE = 2
BLOCK = 1 << 24  # entries of the largest design matrix formed at once


@dataclass(frozen=True)
class RegressionRecord:
    """One pair of half-sweeps.

    Attributes:
        regularization: weight of the penalty.
        ranks: the ``d + 1`` ranks.
        training_error: relative root mean square error on the points fitted.
        error: the same on the points held out.
    """

    regularization: float
    ranks: tuple[int, ...]
    training_error: float
    error: float


@dataclass(frozen=True)
class RegressionInfo:
    """The report of a regression.

    Attributes:
        status: ``converged`` (the held-out error reached ``tol``); ``rank-limited`` (it still fell at ``max_rank``);
            ``data-limited`` (higher ranks and weaker penalties no longer help: noise, too few points or small bases).
        message: one sentence: why it stopped, and what to do about it.
        error: held-out root mean square error, relative to the root mean square of the values held out. It also chose the
            rank and the penalty, so it is a little optimistic.
        training_error: the same on the points fitted.
        regularization: weight of the penalty that was chosen.
        ranks, mode_sizes: of the answer.
        num_points, num_held_out: how the data were split.
        seconds: wall time.
        history: one record per pair of half-sweeps.
    """

    status: Literal["converged", "rank-limited", "data-limited"]
    message: str
    error: float
    training_error: float
    regularization: float
    ranks: tuple[int, ...]
    mode_sizes: tuple[int, ...]
    num_points: int
    num_held_out: int
    seconds: float
    history: tuple[RegressionRecord, ...] = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.status == "converged"


class _Data(NamedTuple):
    """Features of every coordinate, shapes ``(m, n_k)``, and values ``(m,)``."""

    features: list[Tensor]
    y: Tensor

    def reversed(self) -> _Data:
        return _Data(self.features[::-1], self.y)


class _Model(NamedTuple):
    cores: list[Tensor]
    error: float
    training_error: float
    regularization: float

    @property
    def ranks(self) -> tuple[int, ...]:
        return (1, *(core.shape[2] for core in self.cores))


def check_data(
    x: Tensor,
    y: Tensor,
    bases: Sequence[Basis],
    max_rank: int,
    tol: float,
    regularization: float | None,
    validation: float,
    generator: torch.Generator | None,
    seed: int | None,
) -> tuple[Tensor, Tensor, torch.Generator | None]:
    """Raise early, with the remedy; points and values of one floating dtype, and the generator."""
    d = len(tuple(bases))
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(
            f"from_data: expected floating-point tensors x and y; got {type(x).__name__} and {type(y).__name__}. Use torch.as_tensor."
        )
    if x.dim() != 2 or x.shape[1] != d or y.shape != x.shape[:1] or len(y) < 2:
        raise ValueError(
            f"from_data: expected x of shape (m, {d}) and y of shape (m,), m >= 2; got {tuple(x.shape)} and {tuple(y.shape)}. One row per point."
        )
    y = y.detach().to(x)
    x = x.detach()
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(y).all()):
        raise ValueError("from_data: expected finite points and values; got NaN or infinities. Drop those rows.")
    for k, basis in enumerate(bases):
        outside = ~basis.support.check(x[:, k])
        if not basis.periodic and bool(outside.any()):
            raise SupportError(
                f"from_data: expected coordinate {k} in the support of {basis!r}; got {float(x[outside][0, k])}. Widen the basis."
            )
    if not 0 < validation < 1:
        raise ValueError(f"from_data: expected 0 < validation < 1; got {validation}. The default is 0.1.")
    if max_rank < 1 or not tol >= 0 or (regularization is not None and not regularization >= 0):
        raise ValueError(
            f"from_data: expected max_rank >= 1, tol >= 0 and regularization >= 0; got {max_rank}, {tol} and {regularization}. Leave them out for the defaults."
        )
    return x, y, seeded(generator, seed, x.device, "from_data")


def fit_data(
    x: Tensor,
    y: Tensor,
    bases: Sequence[Basis],
    *,
    max_rank: int,
    tol: float,
    regularization: float | None,
    validation: float,
    generator: torch.Generator | None,
) -> tuple[TensorTrain, tuple[Basis, ...], RegressionInfo]:
    r"""Minimise :math:`\frac1m \sum_i (g(x_i) - y_i)^2 + \lambda \langle g, (1 + \sum_k \nu_k^2) g \rangle` over trains ``g``.

    :math:`\nu_k` is the frequency (or degree) along coordinate ``k``, so smooth functions are cheap. Each core in turn is
    the exact minimiser of that quadratic, interfaces orthonormal. Along a path of decreasing :math:`\lambda` the rank
    grows, in directions that correlate with the residual, while the held-out error falls. Cost per core
    :math:`O(m (r n r)^2)`.

    References:
        Holtz, Rohwedder, Schneider: The alternating linear scheme for tensor optimization in the tensor train format (2012).
        Grasedyck, Kluge, Krämer: Variants of alternating least squares tensor completion in the tensor train format (2015).
    """
    started = time.perf_counter()
    bases = tuple(b if b.size is not None else b.with_size(DEFAULT_SIZE) for b in bases)
    order = torch.randperm(len(y), generator=generator, device=y.device)
    held = min(len(y) - 1, max(1, round(validation * len(y))))
    scale = float(y.square().mean().sqrt()) or 1.0
    features, transforms = _features(x, bases)
    train_set = _Data([f[order[held:]] for f in features], y[order[held:]] / scale)
    test_set = _Data([f[order[:held]] for f in features], y[order[:held]] / scale)
    penalties = [_frequencies(b).to(y).square() for b in bases]
    run = _Regression(train_set, test_set, penalties, max_rank, tol, generator)
    best, limited = run.path(PATH if regularization is None else (regularization,))
    cores = [torch.einsum("jn,rjs->rns", t, core) for t, core in zip(transforms, best.cores, strict=True)]
    train = orthogonalize(TensorTrain(cores, math.log(scale)))
    status, message = _verdict(best, limited, max_rank, tol)
    info = RegressionInfo(
        status,
        message,
        best.error,
        best.training_error,
        best.regularization,
        train.ranks,
        train.mode_sizes,
        len(y) - held,
        held,
        time.perf_counter() - started,
        tuple(run.history),
    )
    if info.status == "rank-limited":
        warnings.warn(f"from_data: {info.status}: {info.message}.", ConvergenceWarning, stacklevel=3)
    return train, bases, info


def _verdict(
    best: _Model, limited: bool, max_rank: int, tol: float
) -> tuple[Literal["converged", "rank-limited", "data-limited"], str]:
    if best.error <= tol:
        return "converged", f"held-out error {best.error:.1e} within tol={tol:.1e}"
    if limited:
        return "rank-limited", f"held-out error {best.error:.1e} still falling at max_rank={max_rank}; raise max_rank"
    return (
        "data-limited",
        f"held-out error {best.error:.1e} no longer falls; it may be the noise, else add points or basis functions",
    )


def _features(x: Tensor, bases: Sequence[Basis]) -> tuple[list[Tensor], list[Tensor]]:
    """Orthonormal modes at the data, scaled to a mean square of one, and the maps back to nodal coefficients."""
    features, transforms = [], []
    for k, basis in enumerate(bases):
        n = basis._require_size()
        modal = basis.modal(torch.eye(n, dtype=x.dtype, device=x.device))
        values = basis(x[:, k]) @ modal.T
        factor = (values.square().mean().clamp_min(torch.finfo(x.dtype).tiny)) ** -0.5
        features.append(values * factor)
        transforms.append(modal * factor)
    return features, transforms


def _frequencies(basis: Basis) -> Tensor:
    """How fast every mode oscillates: degree or frequency; zero for categories."""
    j = torch.arange(basis._require_size())
    if isinstance(basis, Categorical):
        return torch.zeros_like(j)
    if isinstance(basis, Fourier):
        return (j + 1) // 2
    return j // basis.elements if isinstance(basis, Piecewise) else j


class _Regression:
    """The alternating scheme: one model, moved along the path."""

    def __init__(
        self,
        train: _Data,
        test: _Data,
        penalties: list[Tensor],
        max_rank: int,
        tol: float,
        generator: torch.Generator | None,
    ) -> None:
        self.train, self.test, self.penalties = train, test, penalties
        self.max_rank, self.tol, self.generator = max_rank, tol, generator
        self.history: list[RegressionRecord] = []

    def path(self, weights: Sequence[float]) -> tuple[_Model, bool]:
        """The best model along decreasing weights, and whether ``max_rank`` was in its way."""
        best, limited, fails = None, False, 0
        cores = self._start()
        for weight in weights:
            model, bound = self._grow(cores, max(weight, 100 * torch.finfo(self.train.y.dtype).eps ** 1.5))
            fails = 0 if best is None or model.error < GAIN * best.error else fails + 1
            if best is None or model.error < best.error:
                best, limited = model, bound
            cores = best.cores
            if best.error <= self.tol or fails >= PATIENCE:
                break
        assert best is not None
        return self._slim(best), limited

    def _start(self) -> list[Tensor]:
        """A random product of mostly smooth functions, cores with orthonormal rows."""
        cores = []
        for penalty in self.penalties:
            core = torch.randn(len(penalty), dtype=penalty.dtype, device=penalty.device, generator=self.generator)
            core = 0.3 * core / (1 + penalty)
            core[0] = 1.0
            cores.append((core / core.norm())[None, :, None])
        return cores

    def _grow(self, cores: list[Tensor], weight: float) -> tuple[_Model, bool]:
        """Sweeps at one weight, ranks growing while the held-out error falls."""
        best = self._settle(cores, weight, 0)
        fails = 0
        current = best
        while fails < PATIENCE and best.error > self.tol:
            top = max(current.ranks)
            if top >= self.max_rank:
                return best, fails == 0
            current = self._settle(current.cores, weight, max(1, min(top // 2, self.max_rank - top)))
            if max(current.ranks) <= top:
                break  # as many as the basis sizes allow
            fails = 0 if current.error < GAIN * best.error else fails + 1
            best = current if current.error < best.error else best
        return best, False

    def _settle(self, cores: list[Tensor], weight: float, growth: int) -> _Model:
        """Sweep back and forth until the held-out error stops falling; the best model on the way."""
        best: _Model | None = None
        for sweep in range(SWEEPS):
            extra = growth if sweep == 0 else 0
            cores = self._half_sweep(cores, self.train, self.penalties, weight, extra)
            cores = _flip(self._half_sweep(_flip(cores), self.train.reversed(), self.penalties[::-1], weight, 0))
            error, training = _error(cores, self.test), _error(cores, self.train)
            model = _Model(cores, error, training, weight)
            self.history.append(RegressionRecord(weight, model.ranks, training, error))
            if best is not None and not error < GAIN * best.error:
                return best if best.error < error else model
            best = model
        assert best is not None
        return best

    def _half_sweep(
        self, cores: list[Tensor], data: _Data, penalties: list[Tensor], weight: float, extra: int
    ) -> list[Tensor]:
        """Solve for every core from the first to the last; those passed get orthonormal columns."""
        d = len(cores)
        rights, right_penalties = _interfaces(cores, data, penalties)
        left = data.y.new_ones(len(data.y), 1)
        left_penalty = data.y.new_zeros(1, 1)
        result = []
        for k in range(d):
            core, residual = _solve(
                left, data.features[k], rights[k], data.y, left_penalty, penalties[k], right_penalties[k], weight
            )
            if k == d - 1:
                result.append(core)
                break
            r, n, s = core.shape
            columns = core.reshape(r * n, s)
            room = min(self.max_rank, r * n, data.features[k + 1].shape[1] * rights[k + 1].shape[1]) - s
            if extra and room > 0:
                sketch = self._sketch(data.features[k + 1], penalties[k + 1], rights[k + 1], min(extra, room))
                fresh = torch.einsum("m,mr,mn,mp->rnp", residual, left, data.features[k], sketch).reshape(r * n, -1)
                columns = torch.cat([columns, fresh], 1)
            q = torch.linalg.qr(columns).Q.reshape(r, n, -1)
            left_penalty = torch.einsum("rns,rt,tnu->su", q, left_penalty, q) + torch.einsum(
                "rns,n,rnu->su", q, penalties[k], q
            )
            left = torch.einsum("mr,mn,rns->ms", left, data.features[k], q)
            result.append(q)
        return result

    def _sketch(self, features: Tensor, penalty: Tensor, right: Tensor, count: int) -> Tensor:
        """Random smooth functions of the modes to the right, at the data: shape ``(m, count)``."""
        a = torch.randn(features.shape[1], count, dtype=right.dtype, device=right.device, generator=self.generator)
        b = torch.randn(right.shape[1], count, dtype=right.dtype, device=right.device, generator=self.generator)
        return (features @ (a / (1 + penalty).sqrt()[:, None])) * (right @ b)

    def _slim(self, model: _Model) -> _Model:
        """Ranks that the held-out points do not miss are dropped."""
        for tol in (0.3 * model.error, 0.03 * model.error):
            cores = list(_absorbed(truncate(TensorTrain(model.cores), tol=min(tol, 0.1))))
            error = _error(cores, self.test)
            if error <= 1.01 * model.error:
                return _Model(cores, error, _error(cores, self.train), model.regularization)
        return model


def _absorbed(train: TensorTrain) -> tuple[Tensor, ...]:
    first, *others = train.cores
    return (first * train.log_scale.exp(), *others)


def _flip(cores: list[Tensor]) -> list[Tensor]:
    return [core.permute(2, 1, 0) for core in reversed(cores)]


def _interfaces(cores: list[Tensor], data: _Data, penalties: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Right of every mode: the later (row-orthonormal) cores at the data, and their share of the penalty."""
    right, penalty = data.y.new_ones(len(data.y), 1), data.y.new_zeros(1, 1)
    rights, right_penalties = [right], [penalty]
    for k in range(len(cores) - 1, 0, -1):
        core = cores[k]
        right = torch.einsum("rns,mn,ms->mr", core, data.features[k], right)
        penalty = torch.einsum("rns,st,unt->ru", core, penalty, core) + torch.einsum(
            "rns,n,uns->ru", core, penalties[k], core
        )
        rights.append(right)
        right_penalties.append(penalty)
    return rights[::-1], right_penalties[::-1]


def _solve(
    left: Tensor,
    features: Tensor,
    right: Tensor,
    y: Tensor,
    left_penalty: Tensor,
    penalty: Tensor,
    right_penalty: Tensor,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """The core that minimises the penalised squares, shape ``(r, n, s)``, and the residuals, shape ``(m,)``."""
    r, n, s = left.shape[1], features.shape[1], right.shape[1]
    size, m = r * n * s, len(y)
    gram, moment = y.new_zeros(size, size), y.new_zeros(size)
    for rows in torch.arange(m, device=y.device).split(max(1, BLOCK // size)):
        design = torch.einsum("mr,mn,ms->mrns", left[rows], features[rows], right[rows]).reshape(len(rows), size)
        gram += design.T @ design / m
        moment += design.T @ y[rows] / m
    eye_r, eye_n, eye_s = (torch.eye(k, dtype=y.dtype, device=y.device) for k in (r, n, s))
    cost = torch.kron(left_penalty.contiguous(), torch.eye(n * s, dtype=y.dtype, device=y.device))
    cost = cost + torch.kron(eye_r, torch.kron(torch.diag(1 + penalty), eye_s))
    cost = cost + torch.kron(eye_r, torch.kron(eye_n, right_penalty.contiguous()))
    jitter = torch.finfo(y.dtype).eps * gram.diagonal().sum()
    system = gram + weight * cost
    system.diagonal().add_(jitter)
    factor, failed = torch.linalg.cholesky_ex(system)
    core = (
        torch.cholesky_solve(moment[:, None], factor)[:, 0]
        if not int(failed)
        else torch.linalg.lstsq(system, moment[:, None]).solution[:, 0]
    )
    core = core.reshape(r, n, s)
    return core, y - torch.einsum("mr,mn,ms,rns->m", left, features, right, core)


def _error(cores: Sequence[Tensor], data: _Data) -> float:
    """Relative root mean square error."""
    state, logs = data.y.new_ones(len(data.y), 1), data.y.new_zeros(len(data.y))
    for core, features in zip(cores, data.features, strict=True):
        state, log = unit_scale(torch.einsum("mr,rns,mn->ms", state, core, features), -1)
        logs = logs + log
    residual = (state[:, 0] * logs.exp() - data.y).square().mean().sqrt()
    size = data.y.square().mean().sqrt()
    return float(residual / size) if float(size) > 0 else float(residual)
