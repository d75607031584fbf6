"""What the benchmark scripts share: worker processes, clocks, and markdown tables."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Clock:
    """Wall and CPU seconds of a block: ``with Clock() as clock: ...``, then `clock.wall` and `clock.cpu`."""

    wall = cpu = 0.0

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, cpu_seconds() - self._cpu


def cpu_seconds() -> float:
    """User and system seconds this process has spent, over all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def repeat(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median wall and CPU seconds of `function` over `repeats` calls."""
    clocks = []
    for _ in range(repeats):
        with Clock() as clock:
            function()
        clocks.append(clock)
    return statistics.median(c.wall for c in clocks), statistics.median(c.cpu for c in clocks)


def run_worker(module: str, arguments: Sequence[str], *, threads: int, timeout: float) -> Record:
    """Run ``python -m module --worker ...`` and return the JSON object on its last line of output.

    A process of its own gives every method clean global state, its own memory limit, and a clock nobody else moves.
    """
    command = [sys.executable, "-m", module, "--worker", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=Path(__file__).parent.parent
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"timeout after {timeout:g} s"}
    lines = done.stdout.strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        tail = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"failure": tail[0]}


@contextlib.contextmanager
def worker_output(memory_gib: float) -> Iterator[Record]:
    """Limit memory, send a library's chatter to stderr, turn exceptions into `failure`, print the record as JSON."""
    if memory_gib:
        limit = int(memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    record: Record = {}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield record
        except ImportError as error:
            record["failure"] = f"missing: {error.name or error}"
        except Exception as error:  # a failure of a library is a result of the comparison
            first = (str(error).strip().splitlines() or [""])[0]
            record["failure"] = f"{type(error).__name__}: {first[:160]}"
    print(json.dumps(record))


def version(package: str) -> str:
    """Return the installed version of a package, or "checkout" for one that is imported from where it lies."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """Return a short decimal, or a dash for nothing."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}g}"


def thousands(value: float | None) -> str:
    """Return a count with thousands separators, or a dash for nothing."""
    return "–" if value is None else f"{value:,.0f}"


def write(path: Path | None, text: str, records: object) -> None:
    """Write markdown to `path` with suffix .md and the records to the same name with suffix .json."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(text + "\n")
    path.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n")


def run(
    options: Any,
    worker: Callable[[Any], None],
    measure: Callable[[Any], list[Record]],
    summarize: Callable[[list[Record], Any], str],
) -> None:
    """Be a worker where the options say so; else measure, print the table, and keep it where ``--output`` says."""
    if options.worker:
        worker(options)
        return
    records = measure(options)
    text = summarize(records, options)
    sys.stdout.write(text + "\n")
    write(options.output, text, records)
