"""A density from samples: maximum likelihood on the cores of a squared train, judged on held-out rows."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConvergenceWarning
from .arguments import seeded
from .ascent import Rows, Sweeper, log_mixture, log_square
from .basis import Basis, Categorical, Fourier
from .canonical import orthogonalize
from .sample_bases import DEFAULT_SIZE, chosen_basis, frequencies, mode_matrix, rank_one
from .sample_request import check_numbers, checked_bases, checked_rows
from .train import TensorTrain

__all__ = ["LikelihoodInfo", "LikelihoodRecord", "SampleOptions", "fit_sample_train"]

Status = Literal["converged", "rank-limited", "out of time"]
GROWTH = 2  # at least: a rank too many is pruned, one too few can be a trap
PATIENCE = 0.1  # of what the sweeps at a rank have gained so far: less is left to the next rank
NEW = 2.0  # at most: penalty of a new mode, in units of its information, until it has shown what it carries
TAIL = 2e-3  # energy in the last third of the modes that calls for more of them


@dataclass(frozen=True)
class SampleOptions:
    """Knobs of the maximum-likelihood fit.

    Attributes:
        regularization: weight of the roughness penalty to begin with; a held-out search moves it by factors of four.
        search: whether to search for it.
        sweeps: at most, there and back, per rank and penalty.
        max_size: the most functions that a basis without size grows to.
        rows_per_parameter: low ranks are fitted to that many rows only; the answer has always seen all of them.
        min_rows: and to this many at least.
    """

    regularization: float = 1e-3
    search: bool = True
    sweeps: int = 6
    max_size: int = 128
    rows_per_parameter: int = 20
    min_rows: int = 10_000


@dataclass(frozen=True)
class LikelihoodRecord:
    """One rank and penalty, sweeps done.

    Attributes:
        ranks, mode_sizes: of the train.
        regularization: weight of the penalty.
        defensive: weight of the reference.
        log_likelihood: mean over the rows fitted, in nats.
        held_out: mean over the rows held out.
        sweeps: there and back.
        seconds: since the fit began.
    """

    ranks: tuple[int, ...]
    mode_sizes: tuple[int, ...]
    regularization: float
    defensive: float
    log_likelihood: float
    held_out: float
    sweeps: int
    seconds: float


@dataclass(frozen=True)
class LikelihoodInfo:
    """The report of a maximum-likelihood fit.

    Attributes:
        status: ``converged`` (higher ranks and other penalties no longer raise the held-out log-likelihood by ``tol``);
            ``rank-limited`` (it still rose at ``max_rank``); ``out of time``.
        message: one sentence: why it stopped, and what to do about it.
        log_likelihood: mean over the rows fitted, nats per row.
        held_out: mean over the rows held out. It chose rank and penalty, so it is a little optimistic.
        regularization: weight of the penalty that was chosen.
        defensive: weight of the reference, fitted too.
        ranks, mode_sizes: of the answer.
        num_rows, num_held_out: how the data were split.
        seconds: wall time.
        history: one record per rank and penalty.
    """

    status: Status
    message: str
    log_likelihood: float
    held_out: float
    regularization: float
    defensive: float
    ranks: tuple[int, ...]
    mode_sizes: tuple[int, ...]
    num_rows: int
    num_held_out: int
    seconds: float
    history: tuple[LikelihoodRecord, ...] = field(repr=False)

    @property
    def converged(self) -> bool:
        """Whether nothing was left to gain."""
        return self.status == "converged"


@dataclass(frozen=True)
class _Model:
    """Cores in the modes of the bases, center first, and the scores they reach."""

    cores: list[Tensor]
    bases: tuple[Basis, ...]
    share: float
    weight: float
    score: float = -math.inf
    train_score: float = -math.inf
    tails: tuple[float, ...] = ()
    """Energy in the last third of the modes, per coordinate."""
    penalties: tuple[Tensor, ...] = ()
    """Of every mode; times `weight` what a sweep is given."""

    @property
    def ranks(self) -> tuple[int, ...]:
        return (1, *(core.shape[2] for core in self.cores))

    @property
    def num_parameters(self) -> int:
        return sum(core.numel() for core in self.cores)


class _Split:
    """The rows, and their features in any bases (remembered per basis)."""

    def __init__(self, x: Tensor, weight: Tensor, caller_bases: Sequence[Basis]) -> None:
        self.x, self.weight = x, weight / weight.sum()
        self._features: dict[tuple[int, Basis], Tensor] = {}
        columns = zip(caller_bases, x.unbind(1), strict=True)
        self._reference = torch.stack([basis.reference_log_prob(column) for basis, column in columns]).sum(0)

    def rows(self, bases: Sequence[Basis]) -> Rows:
        keys = list(enumerate(bases))
        self._features = {key: f for key, f in self._features.items() if key in keys}
        for k, basis in keys:
            if (k, basis) not in self._features:
                self._features[k, basis] = basis(self.x[:, k]) @ mode_matrix(basis).to(self.x).T
        return Rows([self._features[key] for key in keys], self._reference, self.weight)


class _Search:
    """Ranks, sizes and penalty by held-out likelihood: one model that is moved along."""

    def __init__(
        self,
        train: _Split,
        test: _Split,
        free: Sequence[bool],
        max_rank: int,
        tol: float,
        options: SampleOptions,
        generator: torch.Generator | None,
        deadline: float,
        report: Callable[[LikelihoodRecord], None],
    ) -> None:
        self.train, self.test, self.free = train, test, free
        self.max_rank, self.tol, self.options, self.generator = max_rank, tol, options, generator
        self.started, self.deadline, self.report = time.perf_counter(), deadline, report
        self.history: list[LikelihoodRecord] = []

    @property
    def late(self) -> bool:
        return time.perf_counter() - self.started > self.deadline

    def run(self, bases: tuple[Basis, ...]) -> tuple[_Model, bool]:
        """The best model, and whether ``max_rank`` was in its way."""
        best, limited = self._grow(self._settle(self._start(bases), 0))
        if self.options.search:
            tuned = self._tuned(best)
            if tuned.weight != best.weight:
                tuned, limited = self._grow(tuned)
            best = tuned
        if not self.late:
            polished = self._settle(best, 0, full=True)
            best = polished if polished.score > best.score else best
        return best, limited

    def _start(self, bases: tuple[Basis, ...]) -> _Model:
        rows = self.train.rows(bases)
        cores = []
        for k, (basis, features) in enumerate(zip(bases, rows.features, strict=True)):
            x = self.train.x[:, k]
            column = Rows([features], basis.reference_log_prob(x), rows.weight).head(2 * self.options.min_rows)
            start = torch.zeros_like(features[0])
            start[: len(start) if isinstance(basis, Categorical) else 1] = 1.0
            cores.append(rank_one(column, frequencies(basis).to(x), start, self.options.regularization))
        penalties = tuple(frequencies(basis).to(rows.weight) for basis in bases)
        return _Model(cores, bases, 1e-2, self.options.regularization, penalties=penalties)

    def _grow(self, best: _Model) -> tuple[_Model, bool]:
        """Ranks grow while the held-out likelihood does; sizes of free bases follow the energy in their last modes."""
        current, fails = best, 0
        while len(best.cores) > 1 and not self.late:
            current = self._widened(current)
            top = max(current.ranks)
            if top >= self.max_rank:
                return best, fails == 0
            current = self._settle(current, min(max(GROWTH, top // 2), self.max_rank - top))
            fails = 0 if current.score > best.score + self.tol else fails + 1
            best = current if current.score > best.score else best
            if fails and (fails >= 2 or max(current.ranks) > 4 or max(current.ranks) <= top):
                break
        return best, False

    def _tuned(self, best: _Model) -> _Model:
        """Other penalties at the same rank."""
        for factor in (0.25, 4.0):
            improved = False
            while not self.late and 1e-9 < best.weight < 1e3:
                trial = self._settle(replace(best, weight=factor * best.weight, score=-math.inf), 0)
                if trial.score <= best.score + 0.3 * self.tol:
                    break
                best, improved = trial, True
            if improved:
                break
        return best

    def _widened(self, model: _Model) -> _Model:
        """Half as many functions again where the last third of the modes carries more than noise would put there."""
        cores, bases, penalties = list(model.cores), list(model.bases), list(model.penalties)
        for k, (basis, core) in enumerate(zip(model.bases, model.cores, strict=True)):
            r, n, s = core.shape
            noise = r * s * (n // 3) / (4 * min(len(self.train.weight), self._rows_wanted(model)))
            size = min(self.options.max_size, n + n // 2)
            if self.free[k] and size > n and model.tails[k] > TAIL + 2 * noise:
                bases[k] = basis.with_size(size)
                cores[k] = torch.cat([core, core.new_zeros(r, size - n, s)], 1)  # modes are nested: the same function
                last = penalties[k][-1:].clamp_max(NEW / max(model.weight, NEW * 1e-30))
                penalties[k] = torch.cat([penalties[k], last.expand(size - n)])
        return replace(model, cores=cores, bases=tuple(bases), penalties=tuple(penalties))

    def _rows_wanted(self, model: _Model) -> int:
        return max(self.options.min_rows, self.options.rows_per_parameter * model.num_parameters)

    def _settle(self, model: _Model, growth: int, *, full: bool = False) -> _Model:
        """Sweeps until the held-out likelihood stops rising; the best model on the way."""
        rows, held = self.train.rows(model.bases), self.test.rows(model.bases)
        sweeper = Sweeper(list(model.penalties), self.max_rank, self.generator)
        grown = max(model.ranks) + growth
        part = rows if full else rows.head(math.ceil(self._rows_wanted(model) * (grown / max(model.ranks)) ** 2))
        best, cores, share = replace(model, score=-math.inf), model.cores, model.share
        least, first = 0.5 * self.tol, -math.inf
        for sweep in range(self.options.sweeps * (2 if full else 1)):
            cores = sweeper.sweep(cores, part, model.weight, share, growth if sweep == 0 else 0)
            unpruned = growth > 0 and sweep == 0  # no candidate: what grew has not been weighed against noise
            used = tuple(sweeper.penalties)
            if model.weight > 0:
                factor = model.weight / self.options.regularization
                sweeper.learn(1 / float(part.weight.square().sum()), factor, model.weight)
            square = log_square(cores, rows)
            before = log_mixture(square, rows, share)
            taken = float((rows.weight * (rows.reference + math.log(share) - before).exp()).sum())
            share = min(0.5, max((taken * len(before) + 0.5) / (len(before) + 1.0), 1e-9))
            score = float(held.weight @ log_mixture(log_square(cores, held), held, share))
            train_score = float(rows.weight @ log_mixture(square, rows, share))
            done = not score > best.score + max(least, 0.0 if full else PATIENCE * (best.score - first))
            first = score if sweep == 0 else first
            if score > best.score and not unpruned:
                trial = replace(model, cores=cores, share=share, penalties=used)
                best = replace(trial, score=score, train_score=train_score, tails=sweeper.tails)
            if (done or self.late) and not unpruned:
                break
        self._record(best, sweep + 1)
        return best

    def _record(self, model: _Model, sweeps: int) -> None:
        sizes = tuple(core.shape[1] for core in model.cores)
        elapsed = time.perf_counter() - self.started
        scores = (model.train_score, model.score)
        self.history.append(
            LikelihoodRecord(model.ranks, sizes, model.weight, model.share, *scores, sweeps=sweeps, seconds=elapsed)
        )
        self.report(self.history[-1])


def fit_sample_train(
    x: Tensor,
    bases: Sequence[Basis | None] | None,
    *,
    weights: Tensor | None,
    max_rank: int,
    tol: float,
    validation: float,
    generator: torch.Generator | None,
    seed: int | None,
    dtype: torch.dtype,
    device: torch.device | str | None,
    seconds: float | None,
    progress: bool,
    options: SampleOptions | None,
) -> tuple[TensorTrain, tuple[Basis, ...], LikelihoodInfo]:
    """The work behind :meth:`ttvi.tt.TTDensity.fit_samples`, which says what the arguments are."""
    started = time.perf_counter()
    check_numbers(max_rank, tol, validation, seconds, dtype)
    x, weight = checked_rows(x, weights)
    where = x.device if device is None else torch.device(device)
    generator = seeded(generator, seed, where, "fit_samples")
    x, weight = x.to(where, dtype), weight.to(where, dtype)
    order = torch.randperm(len(x), generator=generator, device=where)
    x, weight = x[order], weight[order]
    options = options or SampleOptions()
    given = checked_bases(x, bases)
    free = [basis is None or (basis.size is None) for basis in given]
    chosen = tuple(_sized(basis, x[:, k], options) for k, basis in enumerate(given))
    held = min(len(x) - 1, max(1, round(validation * len(x))))
    train, test = (_Split(x[rows], weight[rows], chosen) for rows in (slice(held, None), slice(held)))
    deadline = math.inf if seconds is None else seconds - (time.perf_counter() - started)
    search = _Search(train, test, free, max_rank, tol, options, generator, deadline, _reporter(progress))
    with torch.no_grad():
        best, limited = search.run(chosen)
    matrices = [mode_matrix(basis).to(x) for basis in best.bases]
    cores = [torch.einsum("jn,rjs->rns", m, core) for m, core in zip(matrices, best.cores, strict=True)]
    result = orthogonalize(TensorTrain(cores))
    result = TensorTrain([result.cores[0] / result.cores[0].norm(), *result.cores[1:]])
    status, message = _verdict(best, limited, search.late, max_rank, tol)
    info = LikelihoodInfo(
        status,
        message,
        best.train_score,
        best.score,
        best.weight,
        best.share,
        result.ranks,
        result.mode_sizes,
        len(x) - held,
        held,
        time.perf_counter() - started,
        tuple(search.history),
    )
    if not info.converged:
        warnings.warn(f"fit_samples: {info.status}: {info.message}.", ConvergenceWarning, stacklevel=3)
    return result, best.bases, info


def _verdict(best: _Model, limited: bool, late: bool, max_rank: int, tol: float) -> tuple[Status, str]:
    if late:
        return "out of time", f"held-out log-likelihood {best.score:.4f} when the time was up; raise seconds"
    if limited:
        return (
            "rank-limited",
            f"held-out log-likelihood {best.score:.4f} still rising at max_rank={max_rank}; raise max_rank",
        )
    return "converged", f"higher ranks and other penalties gain less than tol={tol:.1e} on held-out rows"


def _reporter(progress: bool) -> Callable[[LikelihoodRecord], None]:
    def show(record: LikelihoodRecord) -> None:
        sys.stderr.write(
            f"fit_samples: rank {max(record.ranks)}, penalty {record.regularization:.1e}: held-out {record.held_out:.4f}, "
            f"fitted {record.log_likelihood:.4f} nats, {record.seconds:.1f} s\n"
        )

    return show if progress else lambda record: None


def _sized(basis: Basis | None, column: Tensor, options: SampleOptions) -> Basis:
    if basis is None:
        with torch.no_grad():
            return chosen_basis(column, options.regularization)
    return basis.with_size(DEFAULT_SIZE + isinstance(basis, Fourier)) if basis.size is None else basis
