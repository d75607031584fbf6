"""Cross approximation side by side: ttvi and its peers on shared targets.

Run ``python -m benchmarks.cross --help``; each fit has a process of its own.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Record, number, thousands

SOLVED_ERROR, SOLVED_ESS = 0.1, 0.1


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cross", description=__doc__)
    parser.add_argument("--targets", nargs="+", help="targets (default: all)")
    parser.add_argument("--methods", nargs="+", help="methods (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one fit each (default: 0 1 2)")
    parser.add_argument("--timeout", type=float, default=600.0, help="wall seconds per fit (default: 600)")
    parser.add_argument("--threads", type=int, default=1, help="threads per fit (default: 1)")
    parser.add_argument("--draws", type=int, default=4096, help="draws that score a fit (default: 4096)")
    parser.add_argument("--budget", type=int, default=100_000_000, help="evaluations per fit (default: 1e8)")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB of address space per fit, 0: no limit")
    parser.add_argument("--output", type=Path, help="write PATH.md and PATH.json")
    parser.add_argument("--worker", nargs=3, metavar=("TARGET", "METHOD", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def worker(options: argparse.Namespace) -> None:
    """Fit and score one method on one target; print a JSON record."""
    name, method, seed = options.worker
    with common.worker_output(options.memory) as record:
        import torch

        from benchmarks import methods, targets

        torch.set_num_threads(options.threads)
        target = targets.load(name, options.budget)
        candidate = methods.METHODS[method](target, int(seed))
        record["version"] = common.version(candidate.package)
        try:
            with common.Clock() as clock:
                candidate.fit()
        finally:  # what a failed fit cost is part of the result
            record["evaluations"] = target.log_density.count
        record.update(wall=clock.wall, cpu=clock.cpu)
        record.update(candidate.score(options.draws))


def compare(options: argparse.Namespace) -> list[Record]:
    """Run every target, method and seed in turn; return the records."""
    from benchmarks.methods import METHODS
    from benchmarks.targets import CASES

    settings = ["--threads", options.threads, "--draws", options.draws]
    settings += ["--budget", options.budget, "--memory", options.memory]
    records, missing = [], {}
    for target in options.targets or CASES:
        for method in options.methods or METHODS:
            for seed in options.seeds:
                key = {"target": target, "method": method, "seed": seed}
                arguments = [str(a) for a in (target, method, seed, *settings)]
                record = missing.get(method) or common.run_worker(
                    "benchmarks.cross", arguments, threads=options.threads, timeout=options.timeout
                )
                if str(record.get("failure", "")).startswith("missing: "):
                    missing[method] = record  # no need to ask again
                records.append({**key, **record})
                sys.stderr.write(describe(records[-1]) + "\n")
    return records


def describe(record: Record) -> str:
    """Return one line on one fit."""
    head = f"{record['target']:<20} {record['method']:<17} seed {record['seed']}: "
    if "ess" not in record:
        return head + f"{record.get('failure')} ({thousands(record.get('evaluations'))} evaluations)"
    mass = f", mode mass {record['mode_mass']:.3f}" if "mode_mass" in record else ""
    return head + (
        f"{record['evaluations']:,} evaluations, {record['cpu']:.2f} CPU s, {record['wall']:.2f} s, "
        f"|log Z error| {number(record['log_evidence_error'])}, ESS {record['ess']:.4f}{mass}"
    )


def solved(record: Record) -> bool:
    """Whether a fit is usable: evidence and ESS in range, and both modes there."""
    if "ess" not in record or not math.isfinite(record["log_evidence_error"]):
        return False
    good = record["log_evidence_error"] < SOLVED_ERROR and record["ess"] > SOLVED_ESS
    return good and abs(record.get("mode_mass", 0.5) - 0.5) < 0.1


def summarize(records: list[Record]) -> str:
    """Return a markdown table with a row per target and method: medians and worst over seeds."""
    header = ["target", "method", "solved", "evaluations", "CPU s", "wall s", "abs log Z error (worst)", "ESS (worst)"]
    header += ["mode mass", "failures"]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["target"], record["method"]), []).append(record)
    return common.table(header, [[*key, *summary_row(group)] for key, group in groups.items()])


def summary_row(group: list[Record]) -> list[str]:
    """Return the cells of one target and method."""
    done = [record for record in group if "ess" in record]

    def median(key: str) -> float | None:
        return statistics.median(record[key] for record in done) if done else None

    def worst(key: str, choose: str) -> float | None:
        values = [record[key] for record in done]
        return (max(values) if choose == "max" else min(values)) if values else None

    masses = [f"{record['mode_mass']:.2f}" for record in done if "mode_mass" in record]
    failures = sorted({str(record["failure"]) for record in group if "failure" in record})
    return [
        f"{sum(map(solved, group))}/{len(group)}",
        thousands(median("evaluations")),
        number(median("cpu")),
        number(median("wall")),
        f"{number(median('log_evidence_error'), 2)} ({number(worst('log_evidence_error', 'max'), 2)})",
        f"{number(median('ess'))} ({number(worst('ess', 'min'))})",
        ", ".join(masses) or "–",
        "; ".join(failures) or "–",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print its table."""
    options = parse(arguments)
    if options.worker:
        worker(options)
        return
    records = compare(options)
    text = summarize(records)
    sys.stdout.write(text + "\n")
    common.write(options.output, text, records)


if __name__ == "__main__":
    main()
