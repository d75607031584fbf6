"""The demonstration behind `make demo`: a chain of 32 coordinates with two modes, and a posterior on real data.

Fits both through the functions of the command line, prints their tables, and writes summaries, densities and corner
pictures to ``demo/``.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ttvi.cli import Options, run

JOBS = (
    Options(problem="ginzburg-landau-32"),
    Options(problem="lotka-volterra", tol=0.1),
)


def main() -> None:
    """Run every job, each into a directory of its own."""
    parser = argparse.ArgumentParser(description="Fit two problems and write what was found.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="directory to write to (default %(default)s)")
    output = parser.parse_args().output
    for job in JOBS:
        run(dataclasses.replace(job, output=output / job.problem))
        print()


if __name__ == "__main__":
    main()
