"""How ttvi's own costs grow: with the dimension on the double-well chain, with the rank on random trains."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Record, number, thousands
from benchmarks.sampling import random_cores

DIMENSIONS = [16, 32, 64, 128, 256, 512]
RANKS = [4, 8, 16, 32, 64]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--dimensions", nargs="*", type=int, default=DIMENSIONS)
    parser.add_argument("--ranks", nargs="*", type=int, default=RANKS)
    parser.add_argument("--nodes", type=int, default=48, help="basis size of the chain on [-2.5, 2.5] (default: 48)")
    parser.add_argument("--draws", type=int, default=10_000, help="draws and points (default: 10000)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, of which the median counts (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--timeout", type=float, default=900.0, help="wall seconds per size (default: 900)")
    parser.add_argument("--output", type=Path, help="write PATH.md and PATH.json")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def chain(dim: int, options: argparse.Namespace) -> Record:
    """Fit, sample and evaluate a double-well chain of `dim` coordinates; return CPU seconds."""
    import torch

    import ttvi

    def log_density(x: torch.Tensor) -> torch.Tensor:
        wells = 4 * (x.square() - 1).square().sum(dim=1)
        return -wells - (x[:, 1:] - x[:, :-1]).square().sum(dim=1)

    bases = [ttvi.tt.Legendre(-2.5, 2.5, size=options.nodes)] * dim
    generator = torch.Generator().manual_seed(0)
    with common.Clock() as clock:
        density = ttvi.tt.TTDensity.fit(log_density, bases, generator=generator)
    draws = density.sample((options.draws,), generator=generator)
    record: Record = {"fit": clock.cpu, "evaluations": int(density.info.num_evaluations)}
    record["log_evidence"] = float(density.log_evidence)
    record["sample"] = seconds(lambda: density.sample((options.draws,), generator=generator), options)
    record["log_prob"] = seconds(lambda: density.log_prob(draws), options)
    return record


def random_train(rank: int, options: argparse.Namespace) -> Record:
    """Time the operations on a random train of d = 32, n = 32 and the given rank; return CPU seconds."""
    import torch

    import ttvi

    dim, size = 32, 32
    bases = [ttvi.tt.Legendre(-1.0, 1.0, size=size)] * dim
    density = ttvi.tt.TTDensity(ttvi.tt.TensorTrain(random_cores((dim, size, rank), 0)), bases)
    generator = torch.Generator().manual_seed(0)
    points = density.sample((options.draws,), generator=generator)
    # scattered subsets are the worst case: a sum or a product stands between any two coordinates kept
    spread, point = list(range(0, dim, 4)), points[:1000]
    marginal = density.marginal(spread)
    values = {k: float(points[0, k]) for k in range(0, dim, 2)}
    return {
        "sample": seconds(lambda: density.sample((options.draws,), generator=generator), options),
        "log_prob": seconds(lambda: density.log_prob(points), options),
        "marginal": seconds(lambda: density.marginal(spread), options),
        "marginal_log_prob": seconds(lambda: marginal.log_prob(point[:, spread]), options),
        "condition": seconds(lambda: density.condition(values), options),
    }


def seconds(function, options: argparse.Namespace) -> float:
    """Return the median CPU seconds of a call, after one call outside the clock."""
    function()
    return common.repeat(function, options.repeats)[1]


KINDS = {"chain": chain, "random": random_train}


def worker(options: argparse.Namespace) -> None:
    """Time one size; print a JSON record."""
    with common.worker_output(memory_gib=0) as record:
        import torch

        torch.set_num_threads(options.threads)
        kind, size = options.worker
        record.update(KINDS[kind](int(size), options))


def measure(kind: str, sizes: Sequence[int], options: argparse.Namespace) -> list[Record]:
    """Time every size of one kind in a process of its own."""
    names = ("nodes", "draws", "repeats", "threads")
    settings = [str(word) for name in names for word in (f"--{name}", getattr(options, name))]
    records = []
    for size in sizes:
        record = common.run_worker(
            "benchmarks.scaling", [kind, str(size), *settings], threads=options.threads, timeout=options.timeout
        )
        records.append({"kind": kind, "size": size, **record})
        sys.stderr.write(f"{records[-1]}\n")
    return records


def exponent(records: Sequence[Record], key: str) -> float | None:
    """Return the least-squares slope of log(cost) against log(size), over the sizes that have one."""
    pairs = [(math.log(r["size"]), math.log(r[key])) for r in records if r.get(key, 0) > 0]
    if len(pairs) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
    return slope / sum((x - mean_x) ** 2 for x, _ in pairs)


def summarize(records: Sequence[Record], label: str, keys: Sequence[str]) -> str:
    """Return a markdown table: a row per size, and a last one of fitted exponents."""
    rows = []
    for record in records:
        cells = [thousands(record.get(key)) if key == "evaluations" else number(record.get(key)) for key in keys]
        rows.append([record["size"], *cells, record.get("failure", "–")])
    rows.append(["exponent", *(number(exponent(records, key)) for key in keys), "–"])
    return common.table([label, *(key.replace("_", " ") for key in keys), "failure"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both sweeps and print their tables."""
    options = parse(arguments)
    if options.worker:
        worker(options)
        return
    chains = measure("chain", options.dimensions, options)
    trains = measure("random", options.ranks, options)
    text = "\n\n".join(
        [
            f"Double-well chain, CPU seconds (sample, log_prob: {options.draws:,} points)",
            summarize(chains, "d", ["fit", "evaluations", "sample", "log_prob"]),
            f"Random train, d = 32, n = 32, CPU seconds (sample, log_prob: {options.draws:,} points; "
            "marginal over 8 spread coordinates, its log_prob at 1,000 points; condition on 16)",
            summarize(trains, "r", ["sample", "log_prob", "marginal", "marginal_log_prob", "condition"]),
        ]
    )
    sys.stdout.write(text + "\n")
    common.write(options.output, text, [*chains, *trains])


if __name__ == "__main__":
    main()
