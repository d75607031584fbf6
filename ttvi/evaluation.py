"""The account of one fit: every evaluation passes here, is counted, paid for once, logged and remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .calling import Answer, Caller
from .errors import BudgetExhausted, EvaluationError
from .evaluation_log import EvaluationLog
from .executors import Dispatcher, chunk_size
from .known_points import KnownPoints

__all__ = ["Evaluations"]

LARGEST_BATCH = 65_536
ENOUGH = 8  # points that must all fail before the function is given up
PATIENT_SECONDS = 0.2  # how long a function that is called row by row may run between two entries of the log


class Evaluations:
    """A log-density with an account; made by ``Target.session``.

    Call it with points of shape ``(batch, dim)`` for values of shape ``(batch,)`` in float64. NaN, +inf and points at which
    the function raises are counted and come back as -inf. A point that was asked for before, in this fit or in the log that
    it resumes, is not evaluated again.

    Args:
        caller: the function.
        dim: number of entries of a point.
        budget: the most evaluations; ``None`` for no bound.
        max_batch: the most points in one call.
        executor: where calls run; ``None`` for here.
        cache: whether values are remembered. Without, every point of every call is evaluated and counted.
        log: the log to resume and to extend.
        progress: called with this object after every piece of work.
        reference: points at which gradients are tried while no better ones are known, shape ``(few, dim)``.

    Attributes:
        num_evaluations: distinct points asked for, gradients of a known value counted again; points answered from a
            resumed log count as well, so that a resumed fit takes the same decisions.
        num_paid: points that this process evaluated.
        num_nan: points with the value NaN.
        num_posinf: points with the value +inf.
        num_failed: points at which the function raised.
        num_bad_gradients: points whose gradient was not finite, and was replaced by zero.
        last_error: what the function said when it last raised.

    >>> caller = Caller(lambda x: -0.5 * (x**2).sum(-1))
    >>> account = Evaluations(caller, 2, budget=10)
    >>> account(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]))
    tensor([-0.5000, -2.0000, -0.5000], dtype=torch.float64)
    >>> account.num_evaluations
    2
    """

    def __init__(
        self,
        caller: Caller,
        dim: int,
        *,
        budget: int | None = None,
        max_batch: int | None = None,
        executor: Any = None,
        cache: bool = True,
        log: EvaluationLog | None = None,
        progress: Callable[[Evaluations], None] | None = None,
        reference: Tensor | None = None,
    ) -> None:
        self.dim, self.budget, self.device = dim, budget, caller.device
        self.num_evaluations = self.num_paid = 0
        self.num_nan = self.num_posinf = self.num_failed = self.num_bad_gradients = 0
        self.last_error = ""
        self._caller, self._max_batch, self._log, self._progress = caller, max_batch, log, progress
        self._dispatcher = None if executor is None else Dispatcher(executor, caller)
        self._known = KnownPoints(dim, self.device) if cache or log is not None else None
        fallback = torch.zeros(1, dim, dtype=torch.float64) if reference is None else reference
        self._reference = fallback.to(self.device, torch.float64)
        self._order: list[Tensor] = []
        self._row_batch, self._batches, self._worked = 1, 0, False
        self._charged = [False, False]
        self._stages: dict[str, list[float]] = {}
        self._open: list[str] = []
        self._since = (0, 0.0)
        if log is not None:
            self._resume(log)

    @property
    def remaining(self) -> float:
        """Evaluations left: the budget less what was asked for and the calls that found out how to call."""
        if self.budget is None:
            return float("inf")
        return max(self.budget - self.num_evaluations - self.num_probes, 0)

    @property
    def num_probes(self) -> int:
        """Calls, in points, that found out how the function is called and whether it has gradients.

        They weigh on the budget from the first evaluations on, whoever paid for them: see ``num_evaluations``.
        """
        paid = (self._caller.num_probes, self._caller.num_gradient_probes)
        return sum(count for count, charged in zip(paid, self._charged) if charged)

    @property
    def num_invalid(self) -> int:
        """Points treated as zero density although the function did not say so."""
        return self.num_nan + self.num_posinf + self.num_failed

    @property
    def stages(self) -> dict[str, tuple[int, float]]:
        """Evaluations and wall seconds by stage, in order of first entry; an inner stage does not count in the outer."""
        self._settle()
        return {name: (int(count), seconds) for name, (count, seconds) in self._stages.items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book evaluations and time under a name."""
        self._settle()
        self._stages.setdefault(name, [0, 0.0])
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def __call__(self, x: Tensor) -> Tensor:
        """Values at points: shape ``(batch, dim)`` to ``(batch,)``, float64.

        Raises:
            BudgetExhausted: the budget does not cover the batch; nothing was evaluated.
            EvaluationError: the function raises everywhere, or the executor failed.
            TypeError, ValueError: the function returns something of another type or shape.
        """
        return self._evaluate(x, False)[0]

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gradients: shape ``(batch, dim)`` to ``(batch,)`` and ``(batch, dim)``; one evaluation per point.

        A gradient that is not finite, or belongs to a point of zero density, comes back as zero.

        Raises:
            As a call does.
        """
        values, gradients = self._evaluate(x, True)
        assert gradients is not None
        return values, gradients

    @property
    def has_gradient(self) -> bool:
        """Whether gradients are to be had; tried on first use, at points of finite density if some are known, never loud."""
        caller = self._caller
        if caller.differentiable is None:
            x, values = self.points_and_values()
            x = x[torch.isfinite(values)][:2]
            conclusive = bool(len(x))
            x = x if conclusive else self._reference
            try:
                self._discover(x)
                if not conclusive:
                    caller.num_gradient_probes += len(x)
                    conclusive = not bool(caller.values(x).failed.any())
            except (EvaluationError, TypeError, ValueError):
                return False  # whatever is wrong there, the first evaluation will say so
            if not conclusive:
                return False
            caller.detect_gradient(x)
            self._note()
        self._charged = [True, True]
        return bool(caller.differentiable)

    def points_and_values(self) -> tuple[Tensor, Tensor]:
        """Every point asked for, in order, shape ``(num, dim)``, and its value, shape ``(num,)``; empty without a cache."""
        if self._known is None or not self._order:
            none = torch.zeros(0, self.dim, dtype=torch.float64, device=self.device)
            return none, none.new_zeros(0)
        entries = torch.cat(self._order)
        return self._known.points(entries), _as_density(self._known.values(entries))

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def _evaluate(self, x: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None]:
        x = self._checked(x)
        if not len(x):
            return x.new_zeros(0), x if gradient else None
        if self._known is None:
            self._reserve(len(x))
            answer = Answer.joined([answer for _, answer in self._work([x], gradient)])
            self._book(len(x), answer.values, answer.failed)
            return _as_density(answer.values), self._clean(answer.values, answer.gradients)
        keys = self._known.keys(x)
        rows, inverse = _distinct(keys)
        if rows is not None:
            x, keys = x[rows], keys[rows]
        entries = self._known.find(keys)
        wanted = self._known.unasked(entries, 1 + gradient)
        count = int(wanted.sum())
        if count == len(x):
            self._reserve(count)
            entries = self._fetch(x, keys, entries, gradient)
        elif count:
            self._reserve(count)
            entries[wanted] = self._fetch(x[wanted], keys[wanted], entries[wanted], gradient)
        entries = entries if inverse is None else entries[inverse]
        values = self._known.values(entries)
        return _as_density(values), self._clean(values, self._known.gradients(entries) if gradient else None)

    def _fetch(self, x: Tensor, keys: Tensor, entries: Tensor, gradient: bool) -> Tensor:
        """Book points that the fit has not asked for, and evaluate those that the log does not know; returns their entries.

        The points are cut into pieces before the log is consulted: a resumed fit evaluates in the same batches.
        """
        assert self._known is not None
        known, entries = self._known, entries.clone()
        unknown = known.missing(entries, gradient)
        pieces = self._pieces(len(x))
        wanted = [piece[unknown[piece]] for piece in pieces]
        work = self._work([x if len(rows) == len(x) else x[rows] for rows in wanted if len(rows)], gradient)
        for piece, rows in zip(pieces, wanted):
            while len(rows):
                points, answer = next(work)
                now, rows = rows[: len(points)], rows[len(points) :]
                entries[now] = known.add(keys[now], entries[now], points, answer)
            fresh = known.ask(entries[piece], 1 + gradient)
            self._order.append(fresh)
            self._book(len(piece), known.values(fresh), known.failed(fresh))
        return entries

    def _pieces(self, count: int) -> list[Tensor]:
        """Positions of points that are evaluated in one call; depends on their number only."""
        if self._dispatcher is not None:
            size = self._max_batch or chunk_size(count)
        else:
            size = min(self._max_batch or LARGEST_BATCH, LARGEST_BATCH)
        return list(torch.arange(count, device=self.device).split(size))

    def _work(self, batches: Sequence[Tensor], gradient: bool) -> Iterator[tuple[Tensor, Answer]]:
        """Evaluate batches, log them as soon as they are done, and give them back in order."""
        if not batches:
            return
        self._discover(batches[0])
        if self._dispatcher is not None:
            answers = self._dispatcher.run(
                batches, gradient=gradient, on_done=lambda i, answer: self._paid(batches[i], answer)
            )
            self._hopeless(answers)
            yield from zip(batches, answers)
            return
        for batch in batches:
            while len(batch):
                size = self._row_batch if self._caller.row_by_row else len(batch)
                part, batch = batch[:size], batch[size:]
                answer = self._rows(part, gradient) if self._caller.row_by_row else self._whole(part, gradient)
                self._hopeless([answer])
                yield part, answer

    def _whole(self, x: Tensor, gradient: bool) -> Answer:
        answer = self._caller.gradients(x) if gradient else self._caller.values(x)
        self._paid(x, answer)
        return answer

    def _rows(self, x: Tensor, gradient: bool) -> Answer:
        """Row by row; what was evaluated before an interruption is in the log. Slow functions are logged more often."""
        call = self._caller.gradients if gradient else self._caller.values
        answers: list[Answer] = []
        start = time.perf_counter()
        try:
            for row in x.split(1):
                answers.append(call(row))
        finally:
            if answers:
                answer = Answer.joined(answers)
                self._paid(x[: len(answers)], answer)
        fast = time.perf_counter() - start < PATIENT_SECONDS
        self._row_batch = min(2 * self._row_batch, 1024) if fast else max(self._row_batch // 2, 1)
        return answer

    def _paid(self, x: Tensor, answer: Answer) -> None:
        self.num_paid += len(x)
        self.last_error = answer.error or self.last_error
        if self._log is not None:
            self._log.append(x, answer)
        if self._progress is not None:
            self._progress(self)

    def _hopeless(self, answers: Sequence[Answer]) -> None:
        """Raise if the function has never worked."""
        self._batches += 1
        self._worked = self._worked or not all(bool(answer.failed.all()) for answer in answers)
        if self._worked:
            return
        if self.num_paid >= ENOUGH or self._batches > 2:
            raise EvaluationError(
                f"fit: expected `log_density` to evaluate somewhere; it raised at all of the first {self.num_paid} points: "
                f"{self.last_error}. Return -inf where the density vanishes."
            )

    def _book(self, count: int, values: Tensor, failed: Tensor) -> None:
        """Count what has been asked for, and what came of the points asked for the first time."""
        self.num_evaluations += count
        self.num_failed += int(failed.sum())
        self.num_nan += int((torch.isnan(values) & ~failed).sum())
        self.num_posinf += int((values == torch.inf).sum())
        self._charged[0] = True

    def _clean(self, values: Tensor, gradients: Tensor | None) -> Tensor | None:
        if gradients is None:
            return None
        bad = ~torch.isfinite(gradients).all(1) & torch.isfinite(values)
        self.num_bad_gradients += int(bad.sum())
        dead = bad | ~torch.isfinite(values)
        return gradients.masked_fill(dead.unsqueeze(1), 0.0)

    def _checked(self, x: Tensor) -> Tensor:
        """Points as float64, with one zero instead of two."""
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != self.dim:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"fit: expected points of shape (batch, {self.dim}); got {got}. One row per point.")
        return x.detach().to(self.device, torch.float64) + 0.0

    def _reserve(self, count: int) -> None:
        if count > self.remaining:
            raise BudgetExhausted(f"{count} evaluations wanted, {int(self.remaining)} left")

    def _discover(self, x: Tensor) -> None:
        if self._caller.mode is None:
            self._caller.discover(x)
            self._note()

    def _note(self) -> None:
        caller = self._caller
        if self._log is not None:
            self._log.note(
                mode=caller.mode,
                num_probes=caller.num_probes,
                differentiable=caller.differentiable,
                num_gradient_probes=caller.num_gradient_probes,
            )

    def _resume(self, log: EvaluationLog) -> None:
        """What a log knows becomes the cache."""
        assert self._known is not None
        for name, value in log.notes.items():
            if hasattr(self._caller, name) and getattr(self._caller, name) in (None, 0):
                setattr(self._caller, name, value)
        if self._caller.mode is not None and not log.notes:
            self._note()
        for x, answer in log.records:
            x = x.to(self.device)
            moved = None if answer.gradients is None else answer.gradients.to(self.device)
            answer = Answer(answer.values.to(self.device), answer.failed.to(self.device), moved)
            keys = self._known.keys(x)
            self._known.add(keys, self._known.find(keys), x, answer)
            self._worked = self._worked or not bool(answer.failed.all())
        log.records.clear()

    def _settle(self) -> None:
        """Book what happened since the last change of stage."""
        now = (self.num_evaluations, time.perf_counter())
        if self._open:
            account = self._stages[self._open[-1]]
            account[0] += now[0] - self._since[0]
            account[1] += now[1] - self._since[1]
        self._since = now


def _as_density(values: Tensor) -> Tensor:
    """NaN and +inf as -inf."""
    return torch.where(torch.isnan(values) | (values == torch.inf), -torch.inf, values)


def _distinct(keys: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """First rows of distinct keys, in order, and where each key went; ``None`` twice if all are distinct."""
    ordered = keys.sort().values
    if not bool((ordered[1:] == ordered[:-1]).any()):
        return None, None
    unique, inverse = torch.unique(keys, return_inverse=True)
    positions = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(unique, len(keys)).scatter_reduce_(0, inverse, positions, "amin")
    rows, order = first.sort()
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=keys.device)
    return rows, back[inverse]
