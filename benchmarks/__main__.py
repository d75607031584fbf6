"""Run every comparison: ``python -m benchmarks [--full]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GINZBURG_LANDAU = ["ginzburg-landau-8", "ginzburg-landau-16"]


@dataclass(frozen=True)
class Script:
    """A comparison: what a quick selection passes to it, and where its results go (`{}` is the folder)."""

    quick: list[str]
    output: list[str]


SCRIPTS = {
    "cross": Script(
        ["--targets", *GINZBURG_LANDAU, "two-modes-8", "many-well-32", "--seeds", "0", "--timeout", "120"],
        ["--output", "{}/cross"],
    ),
    "sampling": Script(["--draws", "10000", "--repeats", "1", "--timeout", "300"], ["--output", "{}/sampling"]),
    "scaling": Script(
        ["--dimensions", "16", "32", "64", "--ranks", "4", "8", "16", "--repeats", "1"], ["--output", "{}/scaling"]
    ),
    "flow": Script(["--seeds", "0", "--steps", "150"], ["--output", "{}/flow"]),
    "samples": Script(["--rows", "10000", "--flow-steps", "200"], ["--output", "{}/samples"]),
    "accuracy": Script(["--seeds", "2", "--cases", *GINZBURG_LANDAU], ["--output", "{}/accuracy.json"]),
    "fit": Script(["--cases", "gmm40", "eight-schools", "--seeds", "1"], ["--json", "{}/fit.json"]),
    "tensorizing_flows": Script(
        ["--cases", "rosenbrock-11", "--seeds", "1", "--steps", "100"], ["--json", "{}/tensorizing_flows.json"]
    ),
}


def main() -> None:
    """Run the quick selection, or everything, one script after another, and write their tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="every target and size, hours; default: minutes")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of the tables")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        script = SCRIPTS[name]
        settings = [] if options.full else script.quick
        output = [part.format(options.output) for part in script.output]
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *settings, *output], check=True)


if __name__ == "__main__":
    main()
