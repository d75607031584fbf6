"""Accuracy of `TTDensity.fit` with defaults against exact evidences, over seeds: ``python -m benchmarks.accuracy``.

Every fit runs in this process, one after the other; the table goes to standard output as markdown, the rows to JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

import ttvi.problems
from ttvi.diagnostics import certify
from ttvi.errors import ConvergenceWarning
from ttvi.tt import Basis, Categorical, Fourier, Hermite, Legendre, TTDensity

PI = torch.pi
Builder = Callable[[int], list[Basis]]


@dataclass(frozen=True)
class Case:
    """A problem, the bases it is put on (sizes chosen by the fit unless given), and what departs from the defaults."""

    problem: str
    bases: Builder
    tol: float | None = None
    two_modes: bool = False


def box(lower: float, upper: float, size: int | None = None) -> Builder:
    """The same Legendre basis on every coordinate."""
    return lambda dim: [Legendre(lower, upper, size=size)] * dim


CASES = {
    **{f"ginzburg-landau-{d}": Case(f"ginzburg-landau-{d}", box(-3, 3)) for d in (8, 16, 32, 64)},
    "ginzburg-landau-32, 32 nodes": Case("ginzburg-landau-32", box(-3, 3, 32)),
    "free-ends-chain-50, 24 nodes, tol 2e-2": Case("free-ends-chain-50", box(-1, 1, 24), tol=2e-2),
    "free-ends-chain-50": Case("free-ends-chain-50", box(-1, 1)),
    **{f"double-well-chain-{d}": Case(f"double-well-chain-{d}", box(-3, 3)) for d in (64, 256, 512)},
    "two-modes-8, sigma 1, 64 nodes": Case("two-modes-8", box(-10, 10, 64), two_modes=True),
    "two-modes-8, sigma 0.5, 64 nodes": Case("two-modes-8-sigma-0.5", box(-10, 10, 64), two_modes=True),
    "two-modes-8, sigma 0.25, 64 nodes": Case("two-modes-8-sigma-0.25", box(-10, 10, 64), two_modes=True),
    "two-modes-8, sigma 0.25": Case("two-modes-8-sigma-0.25", box(-10, 10), two_modes=True),
    "shells-10": Case("shells-10", box(-6, 6)),
    "many-well-32": Case("many-well-32", lambda dim: [Legendre(-3, 3), Legendre(-6, 6)] * (dim // 2)),
    "many-well-64": Case("many-well-64", lambda dim: [Legendre(-3, 3), Legendre(-6, 6)] * (dim // 2)),
    "egg-box": Case("egg-box", box(0, 10 * PI)),
    "xy-ring-64": Case("xy-ring-64", lambda dim: [Fourier(-PI, PI)] * dim),
    "ising-fields-64, tol 1e-5": Case(
        "ising-fields-64", lambda dim: [Categorical(2), Hermite(0.0, 1.2)] * (dim // 2), tol=1e-5
    ),
    "lotka-volterra, tol 0.1": Case(
        "lotka-volterra",
        lambda dim: list(ttvi.problems.get("lotka-volterra").bases()),
        tol=0.1,
    ),
}


def run(name: str, case: Case, seed: int, draws: int) -> dict[str, object]:
    """One fit, its certificate, and what it cost."""
    problem = ttvi.problems.get(case.problem)
    generator = torch.Generator().manual_seed(1000 + seed)
    options = {} if case.tol is None else {"tol": case.tol}
    wall, cpu = time.perf_counter(), time.process_time()
    density = TTDensity.fit(problem.log_density, case.bases(problem.dim), generator=generator, **options)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert density.info is not None
    assert problem.log_evidence is not None
    certificate = certify(density, problem.log_density, num_samples=draws, generator=generator)
    share = (
        float((density.sample((20_000,), generator=generator).sum(1) > 0).double().mean()) if case.two_modes else None
    )
    x = density.sample((draws,), generator=generator)
    kl = float((density.log_prob(x) - problem.log_density(x)).mean() + problem.log_evidence)
    return {
        "case": name,
        "seed": seed,
        "status": density.info.status,
        "evaluations": density.info.num_evaluations,
        "rank": max(density.info.ranks),
        "sizes": [min(density.info.mode_sizes), max(density.info.mode_sizes)],
        "error": density.info.error,
        "train": float(density.log_evidence) - problem.log_evidence,
        "weighted": certificate.log_evidence - problem.log_evidence,
        "standard_error": certificate.standard_error,
        "ess": certificate.ess,
        "kl": kl,
        "share": share,
        "wall": wall,
        "cpu": cpu,
    }


def table(rows: list[dict]) -> str:
    """Medians, and the worst over seeds where it matters."""
    lines = [
        "| target | seeds | evaluations | max rank | abs log Z error, train (worst) | by weights (worst) | ESS (worst) | KL (worst) | status | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["case"] for row in rows):
        group = [row for row in rows if row["case"] == name]
        counts: dict[str, int] = {}
        for row in group:
            counts[row["status"]] = counts.get(row["status"], 0) + 1
        status = ", ".join(f"{status} {count}" for status, count in counts.items())
        if group[0]["share"] is not None:
            status += f"; share of a mode {min(r['share'] for r in group):.3f}-{max(r['share'] for r in group):.3f}"
        lines.append(
            f"| {name} | {len(group)} | {median(r['evaluations'] for r in group):,.0f} | {max(r['rank'] for r in group)} "
            f"| {median(abs(r['train']) for r in group):.1e} ({max(abs(r['train']) for r in group):.1e}) "
            f"| {median(abs(r['weighted']) for r in group):.1e} ({max(abs(r['weighted']) for r in group):.1e}) "
            f"| {median(r['ess'] for r in group):.5f} ({min(r['ess'] for r in group):.5f}) "
            f"| {median(r['kl'] for r in group):.1e} ({max(r['kl'] for r in group):.1e}) "
            f"| {status} | {median(r['cpu'] for r in group):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the cases asked for and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/accuracy.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the status is in the table
    options.output.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.cases:
        for seed in range(options.seeds):
            rows.append(run(name, CASES[name], seed, options.draws))
            options.output.write_text(json.dumps(rows, indent=1))
            print(f"{name} seed {seed}: {rows[-1]['status']}, ESS {rows[-1]['ess']:.5f}", flush=True)
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
