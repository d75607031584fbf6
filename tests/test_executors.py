"""Evaluations on executors: the same bits for any pool, the function travels once, failures say what happened."""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
import torch

from ttvi.errors import EvaluationError
from ttvi.evaluation_log import EvaluationLog
from ttvi.executors import chunk_size, evaluate_chunk
from ttvi.target import Target

MATRIX = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grid(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def function(x: torch.Tensor) -> torch.Tensor:
    """Matrix products round differently in batches of different sizes."""
    return -((x @ MATRIX).tanh() @ MATRIX).square().sum(-1)


def failing(x: torch.Tensor) -> torch.Tensor:
    if bool((x[:, 0] > 2).any()):
        raise FloatingPointError("the solver diverged")
    return function(x)


def misshapen(x: torch.Tensor) -> torch.Tensor:
    return function(x) if len(x) < 4 else x


class Arrivals:
    """A function that leaves a file behind whenever it arrives in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        (self.folder / f"{os.getpid()}-{len(list(self.folder.iterdir()))}").touch()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return function(x)


class Recorder:
    """An executor that notes which chunks took the function along."""

    def __init__(self, inner: futures.Executor) -> None:
        self.inner, self.carried = inner, []

    def submit(self, work, token, payload, attempt, chunk):
        self.carried.append(payload is not None)
        return self.inner.submit(work, token, payload, attempt, chunk)


class MapOnly:
    """A process elsewhere, in one thread: nothing that this process knows is known there."""

    def map(self, work, tokens, *columns):
        for row in zip([f"remote {token}" for token in tokens], *columns):
            yield work(*row)


class ForeignFuture:
    """A future that does not descend from concurrent.futures."""

    def __init__(self, value):
        self.value = value

    def result(self):
        return self.value

    def cancel(self):
        return False


class Foreign:
    def submit(self, work, *arguments):
        return ForeignFuture(work(*arguments))


def run(executor, max_batch: int | None = None, function=function, **options) -> list[torch.Tensor]:
    """Values, values of partly known points, gradients, and the points in their order."""
    session = Target(function, dim=5, executor=executor, batching="native", max_batch=max_batch).session(**options)
    x = grid(300)
    values = session(x)
    more = session(torch.cat([x[::7], grid(211, seed=1)]))
    both = session.value_and_gradient(x[:100])
    assert session.num_evaluations == session.num_paid == 611
    return [values, more, *both, *session.points_and_values()]


@pytest.fixture(scope="module")
def forkserver():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "ttvi.executors"])
    return context


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_results_do_not_depend_on_the_pool(forkserver):
    expected = run(None, 16)
    for workers in (1, 2, 3):
        with futures.ThreadPoolExecutor(workers) as pool:
            assert same(run(pool, 16), expected)
        with futures.ProcessPoolExecutor(workers, mp_context=forkserver) as pool:
            assert same(run(pool, 16), expected)


def test_chunks_do_not_depend_on_the_pool_either():
    with futures.ThreadPoolExecutor(1) as one, futures.ThreadPoolExecutor(3) as three:
        assert same(run(one), run(three))
    assert [chunk_size(n) for n in (1, 256, 257, 10**7)] == [1, 1, 2, 1024]


def test_the_function_travels_to_each_spawned_worker_once(tmp_path):
    target = Target(Arrivals(tmp_path), dim=5, max_batch=4)
    with futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        recorder = Recorder(pool)
        session = target.session(executor=recorder)
        for seed in range(3):
            torch.testing.assert_close(session(grid(200, seed)), function(grid(200, seed)))
    arrivals = [path.name.split("-")[0] for path in tmp_path.iterdir()]
    assert len(arrivals) == len(set(arrivals)) <= 2  # at most once in each process
    assert sum(recorder.carried) <= 20  # of more than 150 chunks: a slow worker may ask for it with each one in flight
    assert len(recorder.carried) > 150


@pytest.mark.parametrize("executor", [MapOnly(), Foreign()])
def test_executors_of_other_kinds(executor):
    assert same(run(executor, 16), run(None, 16))


def test_a_cluster_of_dask():
    distributed = pytest.importorskip("distributed")
    shift = 3.0  # a closure: it cannot be imported by the workers
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        result = run(client.get_executor(), 16, lambda x: shift + function(x))
    assert same(result, run(None, 16, lambda x: shift + function(x)))


def test_points_that_raise_in_a_worker_have_zero_density():
    with futures.ThreadPoolExecutor(2) as pool:
        session = Target(failing, dim=5, executor=pool).session()
        values = session(grid(300))
    bad = grid(300)[:, 0] > 2
    assert session.num_failed == int(bad.sum()) > 0
    assert torch.equal(values == -torch.inf, bad)
    assert "the solver diverged" in session.last_error


def test_a_wrong_shape_in_a_worker_is_the_users_error():
    with futures.ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match=r"return shape \(8,\); got \(8, 5\)"):
        Target(misshapen, dim=5, executor=pool, max_batch=8).session()(grid(300))


def test_a_function_that_cannot_travel():
    lock = threading.Lock()

    def locked(x: torch.Tensor) -> torch.Tensor:
        with lock:
            return function(x)

    with pytest.raises(EvaluationError, match="can be sent to the workers"):
        run(MapOnly(), 16, locked)
    with futures.ThreadPoolExecutor(2) as pool:  # threads share it
        assert same(run(pool, 16, locked), run(None, 16))


def test_without_cloudpickle_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cloudpickle", None)
    with pytest.raises(EvaluationError, match="top of a module, or install `cloudpickle`"):
        run(MapOnly(), 16, lambda x: function(x))


def test_a_pool_that_breaks_is_not_a_point_that_fails():
    class Broken:
        def submit(self, *arguments):
            future = futures.Future()
            future.set_exception(futures.BrokenExecutor("a worker died"))
            return future

    with pytest.raises(EvaluationError, match="BrokenExecutor: a worker died"):
        Target(function, dim=5, executor=Broken()).session()(grid(20))


def test_chunks_that_were_done_before_an_interruption_are_logged(tmp_path):
    class Interrupted:
        def __init__(self):
            self.count = 0

        def submit(self, work, *arguments):
            self.count += 1
            if self.count == 6:
                raise KeyboardInterrupt
            return done(work(*arguments))

    def done(value):
        future = futures.Future()
        future.set_result(value)
        return future

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), 16, checkpoint=tmp_path)
    session = Target(function, dim=5, max_batch=16, batching="native").session(checkpoint=tmp_path)
    assert torch.equal(session(grid(300)), run(None, 16)[0])
    assert session.num_paid == 300 - 5 * 16
    assert (tmp_path / EvaluationLog.NAME).exists()


def test_a_worker_asks_for_a_function_that_it_does_not_know():
    kind, worker = evaluate_chunk("no such token", None, 0, (grid(1).numpy(), False))
    assert kind == "unknown"
    assert worker.endswith(f":{os.getpid()}")
