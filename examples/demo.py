"""The demonstration behind `make demo`: one call each for three densities that are hard in different ways.

- 40 modes of a Gaussian mixture in the plane: none may be lost, and their weights should come out right;
- a chain of 16 coordinates with two modes, given as nothing but a log-density on R^16;
- the coal-mining disasters: the year of a change (an integer) and the rates before and after, with exact conditionals.

Summaries are printed beside the known answers; posteriors, summaries and corner pictures go to ``demo/``. The last one is
read back from its files, conditioned, and sampled exactly.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import torch

import ttvi
from ttvi.cli import Options, Result, run

JOBS = (
    Options(problem="gmm40"),
    Options(problem="ginzburg-landau-16"),
    Options(problem="coal-mining", geometry="axis", flow=False),  # the user's own coordinates: exact conditionals
)


def main() -> None:
    """Run every job, each into a directory of its own, and use the last one."""
    parser = argparse.ArgumentParser(description="Fit three problems and write what was found.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="directory to write to (default %(default)s)")
    output = parser.parse_args().output
    torch.set_num_threads(1)  # many small products: on a busy machine threads wait for each other
    start = time.perf_counter()
    for job in JOBS:
        last = run(dataclasses.replace(job, save=output / job.problem))
        print()
    read_back(output / JOBS[-1].problem, last)
    print(f"\n{time.perf_counter() - start:.0f} seconds in all; pictures: {output}/*/corner.png")


def read_back(path: Path, fitted: Result) -> None:
    """What can be done with a posterior that was saved."""
    posterior = ttvi.load(path, log_density=fitted.problem.log_density)
    print(f"read back: {posterior!r}")
    for year in (1888, 1892):
        early, late = posterior.condition({"year": year}).sample(10_000, seed=0).mean(0).tolist()
        print(f"if the change came in {year}: {early:.2f} disasters a year before, {late:.2f} from then on")
    print("five draws of the posterior itself, corrected by their weights:")
    rows = posterior.sample(5, seed=0, corrected=True).tolist()
    print("\n".join("  ".join(f"{name} {value:.2f}" for name, value in zip(posterior.names, row)) for row in rows))


if __name__ == "__main__":
    main()
