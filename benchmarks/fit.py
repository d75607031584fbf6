"""Accuracy of `ttvi.fit` with defaults over problems and seeds: ``python -m benchmarks.fit --cases funnel-10 --seeds 10``.

Every fit has a process of its own. What it returns is judged here by fresh draws, not by what it says of itself; what
it says of itself (evidence, standard error, verdict) stands beside. The table goes to standard output as markdown, the
rows to JSON after every fit.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ttvi
import ttvi.problems
from benchmarks.common import Clock, Record, number, run_worker, table, thousands, worker_output
from ttvi.diagnostics import effective_sample_size, log_evidence, pareto_k
from ttvi.errors import ConvergenceWarning
from ttvi.problems import Problem

GROUPS = {
    "core": [
        "funnel-10",
        "gmm40",
        "rotated-mixture-10",
        "rosenbrock-chain-10",
        "rosenbrock-pairs-20",
        "ginzburg-landau-64",
        "ginzburg-landau-256",
        "phi4-6-lambda-6.975",
        "ionosphere",
        "brownian",
        "eight-schools",
        "eight-schools-centred",
        "garch",
        "lotka-volterra-natural",
        "coal-mining",
        "von-mises-mixture",
        "half-cauchy-simplex",
        "positive-chain-16",
    ],
    "tensorizing-flows": [
        "free-ends-chain-50",
        "free-ends-chain-50-temperature-16",
        "antiferromagnetic-chain-25",
        "spin-glass-chain-35",
        "boundary-lattice-8-temperature-5",
        "boundary-lattice-8-temperature-1",
        "rosenbrock-11",
        "double-rosenbrock-11",
        "five-modes-30",
    ],
    "lattices": [
        "phi4-6-lambda-8",
        "phi4-8-lambda-6.008",
        "phi4-8-lambda-8",
        "ginzburg-landau-2d-4",
        "ginzburg-landau-2d-6",
        "ginzburg-landau-2d-8",
        "xy-lattice-4",
        "xy-lattice-6",
        "xy-ring-64",
        "ising-fields-64",
    ],
    "modes": [
        "two-modes-8",
        "two-modes-8-sigma-0.5",
        "two-modes-8-sigma-0.25",
        "many-well-32",
        "many-well-64",
        "shells-2",
        "shells-10",
        "shells-20",
        "egg-box",
        "double-well-chain-64",
    ],
}
FOUND = 0.2
"""A mode counts as found when it holds at least this fraction of its true share."""

CHUNK = 20_000
"""Draws evaluated at once: bounds memory."""


# -- one fit ------------------------------------------------------------------------------------------------------


def worker(name: str, seed: int, options: argparse.Namespace) -> None:
    """Fit one problem with one seed in this process and print the record."""
    torch.set_num_threads(options.threads)
    with worker_output(options.memory) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the verdict is in the table
        problem = ttvi.problems.get(name)
        settings = {} if options.budget is None else {"budget": options.budget}
        with Clock() as clock:
            posterior = ttvi.fit(problem.log_density, **problem.fit_arguments, seed=seed, **settings)
        record |= {"wall": clock.wall, "cpu": clock.cpu}
        record |= told(problem, posterior)
        generator = torch.Generator().manual_seed(1_000_003 + seed)
        with torch.no_grad(), Clock() as clock:
            record |= measured(problem, posterior, options.draws, generator)
            record |= mode_shares(problem, posterior, options.mode_draws, generator)
        record["judging"] = clock.wall


def told(problem: Problem, posterior: Any) -> Record:
    """What the posterior says of itself, and by how much its evidence is off."""
    value, error = (float(number) for number in posterior.log_evidence)
    diagnostics, verdict = posterior.diagnostics, posterior.verdict
    record: Record = {
        "log_evidence": value,
        "standard_error": error,
        "evaluations": int(diagnostics.num_evaluations),
        "verdict": str(verdict.level),
        "reasons": list(verdict.reasons),
        "status": str(diagnostics.status),
        "largest_rank": max(diagnostics.ranks, default=0),
        "stages": {name: list(spent) for name, spent in diagnostics.stages.items()},
        "geometry": list(diagnostics.geometry),
    }
    if problem.log_evidence is not None:
        record["error"] = abs(value - problem.log_evidence)
    return record


def measured(problem: Problem, posterior: Any, draws: int, generator: torch.Generator) -> Record:
    """ESS, Pareto k, evidence and divergence by fresh draws; errors of means and, by weights, of mode shares against the truth."""
    x = draw(posterior, draws, generator)
    log_q = in_chunks(posterior.log_prob, x)
    log_p = in_chunks(problem.log_density, x).to(log_q)
    log_w = torch.nan_to_num(log_p - log_q, nan=-math.inf, posinf=math.inf, neginf=-math.inf).double()
    value, error = log_evidence(log_w)
    record: Record = {
        "ess": effective_sample_size(log_w),
        "pareto_k": pareto_k(log_w),
        "fresh_log_evidence": value,
        "fresh_standard_error": error,
        "zero_density": int(torch.isneginf(log_w).sum()),
    }
    if problem.log_evidence is not None:
        record["kl"] = float(problem.log_evidence - log_w.mean())
    if problem.moments is not None:
        moments = problem.moments
        quantities = moments.quantities(x).double()
        share = log_w.softmax(0)
        for key, means in (("mean_error", quantities.mean(0)), ("weighted_mean_error", share @ quantities)):
            record[key] = float(((means - moments.mean) / moments.sd).abs().nan_to_num().max())
        record["sd_error"] = float((quantities.std(0) / moments.sd).log().abs().nan_to_num().max())
    if problem.modes is not None:
        shares = log_w.softmax(0) @ problem.modes.responsibilities(x).double()
        record["weighted_mode_error_absolute"] = float((shares - problem.modes.weights).abs().max())
    return record


def mode_shares(problem: Problem, posterior: Any, draws: int, generator: torch.Generator) -> Record:
    """How many modes hold draws, and how far the shares are from the weights: largest error, relative and absolute."""
    if problem.modes is None:
        return {}
    total = torch.zeros_like(problem.modes.weights)
    for start in range(0, draws, CHUNK):
        x = draw(posterior, min(CHUNK, draws - start), generator)
        total += problem.modes.responsibilities(x).double().sum(0)
    error = (total / draws - problem.modes.weights).abs()
    return {
        "modes": len(total),
        "modes_found": int((total / draws >= FOUND * problem.modes.weights).sum()),
        "mode_error": float((error / problem.modes.weights).max()),
        "mode_error_absolute": float(error.max()),
    }


def draw(posterior: Any, draws: int, generator: torch.Generator) -> torch.Tensor:
    """Independent draws, chunk by chunk."""
    parts = [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]
    return torch.cat([posterior.sample((part,), generator=generator) for part in parts])


def in_chunks(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Evaluate chunk by chunk."""
    return torch.cat([function(part) for part in x.split(CHUNK)])


# -- the table ----------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Record]) -> str:
    """Medians over seeds, and the worst seed in brackets."""
    header = [
        "target",
        "seeds",
        "abs Δ log Z (worst)",
        "standard error",
        "ESS (worst)",
        "KL (worst)",
        "evaluations",
        "wall s",
        "CPU s",
        "verdict",
        "modes found (worst); weight error (worst)",
        "mean error in sd (worst)",
    ]
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        group = [row for row in rows if row["case"] == case]
        lines.append([case, len(group), *case_cells(group)])
    return table(header, lines)


def case_cells(group: Sequence[Record]) -> list[str]:
    """The cells of one problem."""
    modes = "–"
    counted = [row for row in group if "modes" in row]
    if counted:
        least = min(row["modes_found"] for row in counted)
        middle = median(row["modes_found"] for row in counted)
        modes = f"{middle:g} of {counted[0]['modes']} ({least}); {spread(counted, 'mode_error', scale=100, unit=' %')}"
    verdicts = Counter(row.get("verdict") or f"failed: {row.get('failure', 'no record')}" for row in group)
    return [
        spread(group, "error"),
        number(middle_of(group, "standard_error"), 2),
        spread(group, "ess", worst=min, digits=4),
        spread(group, "kl"),
        thousands(middle_of(group, "evaluations")),
        number(middle_of(group, "wall")),
        number(middle_of(group, "cpu")),
        ", ".join(f"{text} {count}" for text, count in verdicts.items()),
        modes,
        spread(group, "mean_error"),
    ]


def middle_of(group: Sequence[Record], key: str) -> float | None:
    """Median over the seeds that have a value."""
    values = [row[key] for row in group if row.get(key) is not None]
    return median(values) if values else None


def spread(
    group: Sequence[Record],
    key: str,
    *,
    worst: Callable[[list[float]], float] = max,
    digits: int = 2,
    scale: float = 1.0,
    unit: str = "",
) -> str:
    """ "median (worst)"."""
    values = [scale * row[key] for row in group if row.get(key) is not None]
    if not values:
        return "–"
    # A NaN is the worst there is.
    extreme = math.nan if any(math.isnan(value) for value in values) else worst(values)
    return f"{number(median(values), digits)} ({number(extreme, digits)}){unit}"


# -- the command line ---------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """The arguments; names of groups stand for their members."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit", description=__doc__)
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["core"],
        metavar="CASE",
        help=f"names of `ttvi problems`, or groups: {', '.join(GROUPS)} (default: core)",
    )
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, … (default %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=20_000, help="fresh draws that judge (default %(default)s)")
    parser.add_argument("--mode-draws", type=int, default=200_000, help="draws for mode shares (default %(default)s)")
    parser.add_argument("--budget", type=int, help="evaluations allowed (default: the fit's own)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=0.0, help="GiB of address space per fit; 0: no limit")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds per fit (default %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/fit.json"), help="where the rows go")
    parser.add_argument("--resume", action="store_true", help="keep the rows that are already there")
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.cases = [name for case in options.cases for name in GROUPS.get(case, [case])]
    return options


def main() -> None:
    """Run the cases asked for and print the table."""
    options = parse()
    if options.worker:
        worker(options.worker[0], int(options.worker[1]), options)
        return
    for name in options.cases:
        ttvi.problems.get(name)  # a wrong name is better found now
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Record] = json.loads(options.json.read_text()) if options.resume and options.json.exists() else []
    done = {(row["case"], row["seed"]) for row in rows}
    passed = [f"--{key}={getattr(options, key)}" for key in ("draws", "threads", "memory")]
    passed += [f"--mode-draws={options.mode_draws}"] + ([f"--budget={options.budget}"] if options.budget else [])
    for name in options.cases:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            if (name, seed) in done:
                continue
            arguments = [name, str(seed), *passed]
            record = run_worker("benchmarks.fit", arguments, threads=options.threads, timeout=options.timeout)
            rows.append({"case": name, "seed": seed, **record})
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
            said = record.get("failure") or f"{record['verdict']}, ESS {record['ess']:.4f}, {record['wall']:.1f} s"
            print(f"{name} seed {seed}: {said}", flush=True)
    print("\n" + summary(rows))


if __name__ == "__main__":
    main()
