"""Run every comparison: ``python -m benchmarks [--full]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import cross, sampling, scaling

QUICK = ["ginzburg-landau-8", "ginzburg-landau-16", "two-modes-8", "many-well-32"]


def main() -> None:
    """Run the quick selection, or everything, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every target and size, hours; default: minutes")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    options = parser.parse_args()
    quick_cross = ["--targets", *QUICK, "--seeds", "0", "--timeout", "120"]
    quick_sampling = ["--draws", "10000", "--repeats", "1", "--timeout", "300"]
    quick_scaling = ["--dimensions", "16", "32", "64", "--ranks", "4", "8", "16", "--repeats", "1"]
    for name, script, quick in (
        ("cross", cross, quick_cross),
        ("sampling", sampling, quick_sampling),
        ("scaling", scaling, quick_scaling),
    ):
        script.main([*([] if options.full else quick), "--output", str(options.output / name)])


if __name__ == "__main__":
    main()
