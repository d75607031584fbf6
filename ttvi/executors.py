"""Chunks of points on any executor of ``concurrent.futures``; the function travels to each worker once."""

from __future__ import annotations

import concurrent.futures as futures
import hashlib
import importlib
import os
import pickle
import socket
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calling import Answer, Caller, WrongShape, WrongType
from .errors import EvaluationError

__all__ = ["Dispatcher", "chunk_size"]

_KNOWN: dict[str, Caller] = {}
"""In a worker: the functions that have arrived. In the main process: those of its dispatchers, for pools of threads."""

CAPACITY = 16
PATIENCE = 3  # replies "unknown" after which a chunk takes the function along whatever others carry

Reply = tuple[str, Any]
Chunk = tuple[np.ndarray, bool]


def chunk_size(count: int) -> int:
    """Rows per chunk; it depends on the number of points only, so that results do not depend on the pool.

    >>> chunk_size(100), chunk_size(10_000)
    (1, 40)
    """
    return min(max(-(-count // 256), 1), 1024)


def evaluate_chunk(token: str, payload: bytes | None, attempt: int, chunk: Chunk) -> Reply:
    """In a worker: evaluate, or say that the function has not arrived. ``attempt`` keeps caches of pure calls away."""
    caller = _KNOWN.get(token)
    if caller is None:
        if payload is None:
            return "unknown", f"{socket.gethostname()}:{os.getpid()}"
        while len(_KNOWN) >= CAPACITY:
            _KNOWN.pop(next(iter(_KNOWN)), None)
        caller = _KNOWN[token] = pickle.loads(payload)
    x, gradient = chunk
    points = torch.from_numpy(x.copy())
    answer = caller.gradients(points) if gradient else caller.values(points)
    gradients = None if answer.gradients is None else answer.gradients.numpy()
    return "answer", (answer.values.numpy(), answer.failed.numpy(), gradients, answer.error)


class Dispatcher:
    """Sends chunks to an executor.

    A chunk leaves without the function. A worker that does not know it says so, and the chunk comes back with the
    function; meanwhile other chunks that the same worker refuses go without it, so that it travels once per worker.

    Args:
        executor: anything with ``submit`` or ``map``, as in ``concurrent.futures.Executor``.
        caller: the function.
    """

    def __init__(self, executor: Any, caller: Caller) -> None:
        self._executor, self._caller = executor, caller
        self._payload: bytes | None = None
        self._token = ""

    def run(
        self, parts: Sequence[Tensor], *, gradient: bool = False, on_done: Callable[[int, Answer], None] | None = None
    ) -> list[Answer]:
        """Answers to parts of points, in their order.

        Args:
            parts: points, each of shape ``(chunk, dim)``.
            gradient: whether gradients are wanted.
            on_done: called with position and answer as soon as a part is done.

        Raises:
            EvaluationError: the executor failed, or the function cannot travel.
        """
        self._register()
        chunks = [(part.detach().cpu().numpy(), gradient) for part in parts]
        device = parts[0].device if parts else torch.device("cpu")
        answers: dict[int, Answer] = {}

        def done(position: int, reply: Any) -> None:
            values, failed, gradients, error = reply
            gradients = None if gradients is None else torch.from_numpy(gradients.copy()).to(device)
            answer = Answer(
                torch.from_numpy(values.copy()).to(device), torch.from_numpy(failed.copy()).to(device), gradients, error
            )
            answers[position] = answer
            if on_done is not None:
                on_done(position, answer)

        (self._submit if hasattr(self._executor, "submit") else self._map)(chunks, done)
        return [answers[i] for i in range(len(chunks))]

    def _register(self) -> None:
        """Make the function known in this process; the token names it everywhere."""
        if not self._token:
            self._token = hashlib.sha256(os.urandom(32)).hexdigest()
        if _KNOWN.get(self._token) is not self._caller:
            while len(_KNOWN) >= CAPACITY:
                _KNOWN.pop(next(iter(_KNOWN)), None)
            _KNOWN[self._token] = self._caller

    def _submit(self, chunks: Sequence[Chunk], done: Callable[[int, Any], None]) -> None:
        pending: dict[Any, tuple[int, int, str]] = {}  # future -> position, attempt, worker that the function goes to
        travelling: set[str] = set()

        def send(position: int, attempt: int, worker: str) -> None:
            payload = self._pickled() if worker else None
            future = self._executor.submit(evaluate_chunk, self._token, payload, attempt, chunks[position])
            pending[future] = (position, attempt, worker)

        try:
            for position in range(len(chunks)):
                send(position, 0, "")
            while pending:
                for future in self._finished(pending):
                    position, attempt, worker = pending.pop(future)
                    travelling.discard(worker)
                    kind, reply = self._result(future)
                    if kind == "answer":
                        done(position, reply)
                        continue
                    carry = reply not in travelling or attempt >= PATIENCE
                    travelling.add(reply)
                    send(position, attempt + 1, reply if carry else "")
        except BaseException:
            for future in pending:
                future.cancel()
            for future, (position, _, _) in pending.items():  # what was paid for is kept
                if future.done() and not future.cancelled() and future.exception() is None:
                    kind, reply = future.result()
                    if kind == "answer":
                        done(position, reply)
            raise

    def _map(self, chunks: Sequence[Chunk], done: Callable[[int, Any], None]) -> None:
        """For executors that can only map: every chunk takes the function along if one of them was refused."""
        waiting, payload = list(range(len(chunks))), None
        for attempt in range(PATIENCE):
            arguments = ([self._token], [payload], [attempt])
            columns = [column * len(waiting) for column in arguments]
            replies = self._executor.map(evaluate_chunk, *columns, [chunks[i] for i in waiting])
            refused = []
            for position, (kind, reply) in zip(list(waiting), replies):
                if kind == "answer":
                    done(position, reply)
                else:
                    refused.append(position)
            if not refused:
                return
            waiting, payload = refused, self._pickled()
        raise EvaluationError("fit: expected an executor that runs what it is given; got refusals. Check its workers.")

    @staticmethod
    def _finished(pending: dict[Any, tuple[int, int, str]]) -> list[Any]:
        """Futures that are done, in order of submission; waits for one."""
        if all(isinstance(future, futures.Future) for future in pending):
            ready, _ = futures.wait(pending, return_when=futures.FIRST_COMPLETED)
            return [future for future in pending if future in ready]
        return [next(iter(pending))]  # a foreign future: its result() waits

    @staticmethod
    def _result(future: Any) -> Reply:
        try:
            return future.result()
        except (WrongShape, WrongType):
            raise
        except Exception as error:
            raise EvaluationError(
                f"fit: expected `executor` to run the function; it raised {type(error).__name__}: {error}. The function must "
                "be importable in the workers, or `cloudpickle` installed."
            ) from error

    def _pickled(self) -> bytes:
        """The function, by cloudpickle where it is installed."""
        if self._payload is None:
            try:
                dumps = importlib.import_module("cloudpickle").dumps
                remedy = "Leave out what cannot be pickled: open files, locks, compiled functions."
            except ImportError:
                dumps, remedy = pickle.dumps, "Define it at the top of a module, or install `cloudpickle`."
            try:
                self._payload = dumps(self._caller)
            except Exception as error:
                raise EvaluationError(
                    f"fit: expected a `log_density` that can be sent to the workers of `executor`; pickling raised "
                    f"{type(error).__name__}: {error}. {remedy}"
                ) from error
        return self._payload
