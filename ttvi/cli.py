"""The command line: ``ttvi fit <problem>`` and ``ttvi problems``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .geometry.candidates import GEOMETRIES
from .inference import fit
from .plots import corner
from .posterior import Posterior
from .problems.problem import Modes, Moments, Problem
from .problems.registry import get, names

__all__ = ["Options", "Result", "comparison", "main", "run"]

_SCATTERED = 1000


@dataclass(frozen=True)
class Options:
    """What ``ttvi fit`` is told.

    Attributes:
        problem: name of the problem.
        tol: relative tolerance of the trains.
        max_rank: largest rank.
        budget: largest number of evaluations of the log-density, or None.
        seed: seed of everything random.
        geometry: "auto", or the name of one of the coordinates that `ttvi.fit` offers.
        flow: whether a flow may be trained on top.
        checkpoint: directory of the evaluation log, from which an interrupted fit continues, or None.
        save: directory for the posterior, the summary and the picture, or None to write nothing.
        plot: whether to draw the corner picture.
        quiet: whether to print nothing.
    """

    problem: str
    tol: float = 1e-2
    max_rank: int = 64
    budget: int | None = None
    seed: int = 0
    geometry: str = "auto"
    flow: bool = True
    checkpoint: Path | None = None
    save: Path | None = None
    plot: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """What `run` returns: the posterior, and the numbers of ``summary.json``."""

    problem: Problem
    posterior: Posterior
    summary: dict[str, Any]


def run(options: Options) -> Result:
    """Fit a named problem, say how good the fit is, and write what was found.

    Raises:
        ValueError: for a name or a setting that does not exist.
        ImportError: if a picture or a file is asked for and its extra is missing.
    """
    problem = get(options.problem)
    arguments = problem.fit_arguments
    if not isinstance(arguments.get("support"), dict):
        arguments["names"] = problem.names  # those of a dict are its keys
    posterior = fit(
        problem.log_density,
        **arguments,
        tol=options.tol,
        max_rank=options.max_rank,
        budget=options.budget,
        seed=options.seed,
        geometry=options.geometry,
        flow=options.flow,
        checkpoint=options.checkpoint,
        progress=_has_progress(options),
    )
    summary = _summary(problem, posterior)
    if options.save is not None:
        _write(options, options.save, posterior, summary)
    if not options.quiet:
        print(f"{problem.name}: {problem.reference}\n\n{posterior.summary()}")
        print("\n".join(["", *comparison(summary["truth"])]) if summary["truth"] else "")
        if options.save is not None:
            print(f"\nwritten to {options.save}/")
    return Result(problem, posterior, summary)


def comparison(truth: dict[str, Any]) -> list[str]:
    """The comparison with what is known about a problem, in lines."""
    lines = []
    if "log_evidence" in truth:
        within = f" (known to {truth['log_evidence_error']:.1g})" if truth["log_evidence_error"] else ""
        lines.append(
            f"exact          log evidence {truth['log_evidence']:.4f}{within}; off by {truth['difference']:+.2g}"
        )
    if "mean_error" in truth:
        lines.append(f"               means within {truth['mean_error']:.2g} reference standard deviations")
    if "weight_error" in truth:
        found = f"{truth['modes_found']} of {truth['num_modes']} modes"
        lines.append(f"               {found} in the draws, weights within {truth['weight_error']:.2g}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code: 0, or 2 after an error told in one line."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "problems":
            _list_problems()
        else:
            run(_options(parsed))
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        print(f"ttvi: {_first_line(error)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = Options(problem="")
    parser = argparse.ArgumentParser(prog="ttvi", description="Fit named problems and judge the fits.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("problems", help="list the named problems")
    command = commands.add_parser("fit", help="fit one of them and judge the fit")
    add = command.add_argument
    add("problem", help="a name from `ttvi problems`")
    add("--tol", type=float, default=defaults.tol, help="relative tolerance (default %(default)g)")
    add("--max-rank", type=int, default=defaults.max_rank, help="largest rank (default %(default)s)")
    add("--budget", type=int, help="largest number of evaluations (default: none)")
    add("--seed", type=int, default=defaults.seed, help="seed (default %(default)s)")
    add("--geometry", choices=GEOMETRIES, default=defaults.geometry, help="coordinates (default %(default)s)")
    add("--no-flow", action="store_true", help="train no flow")
    add("--checkpoint", type=Path, metavar="DIR", help="evaluation log: an interrupted fit continues from it")
    add("--save", "--output", type=Path, metavar="DIR", help="write the posterior, summary.json and corner.png")
    add("--no-plot", action="store_true", help="write no picture")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    return Options(
        problem=parsed.problem,
        tol=parsed.tol,
        max_rank=parsed.max_rank,
        budget=parsed.budget,
        seed=parsed.seed,
        geometry=parsed.geometry,
        flow=not parsed.no_flow,
        checkpoint=parsed.checkpoint,
        save=parsed.save,
        plot=not parsed.no_plot,
        quiet=parsed.quiet,
    )


def _list_problems() -> None:
    for name in names():
        print(name)
    print("\nFamilies take other sizes too: ttvi fit ginzburg-landau-24")


def _has_progress(options: Options) -> bool:
    """A bar for a person who is watching, if there is one to be had."""
    return not options.quiet and sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None


def _summary(problem: Problem, posterior: Posterior) -> dict[str, Any]:
    """Everything worth keeping, as plain numbers and texts."""
    judged = posterior.verdict
    rows = posterior.summary().rows
    return {
        "problem": problem.name,
        "dim": problem.dim,
        "verdict": judged.level,
        "reasons": list(judged.reasons),
        "next_step": judged.next_step,
        "coordinates": [
            {"name": row.name, "mean": row.mean, "sd": row.sd, "quantiles": list(row.quantiles)} for row in rows
        ],
        "truth": _truth(problem, posterior),
        "diagnostics": posterior.diagnostics.to_dict(),
    }


def _truth(problem: Problem, posterior: Posterior) -> dict[str, Any]:
    """How far off the answer is, wherever the right one is known."""
    found: dict[str, Any] = {}
    if problem.log_evidence is not None:
        found["log_evidence"] = problem.log_evidence
        found["log_evidence_error"] = problem.log_evidence_error
        found["difference"] = posterior.log_evidence[0] - problem.log_evidence
    if posterior.diagnostics.ess == 0:  # no draw has any weight: there are no estimates
        return found
    if problem.moments is not None:
        found["mean_error"] = _mean_error(problem.moments, posterior)
    if problem.modes is not None:
        found |= _mode_errors(problem.modes, posterior)
    return found


def _mean_error(moments: Moments, posterior: Posterior) -> float:
    """The largest error of a mean, in reference standard deviations."""
    mean = posterior.expectation(moments.quantities)
    off = ((mean - moments.mean) / moments.sd).abs()
    return float(off[off.isfinite()].max())


def _mode_errors(modes: Modes, posterior: Posterior) -> dict[str, Any]:
    """How many modes have draws, and the largest error of a weight."""
    weights = posterior.expectation(modes.responsibilities)
    visited = modes.assign(posterior.draws).unique()
    return {
        "num_modes": len(modes.weights),
        "modes_found": len(visited),
        "weight_error": float((weights - modes.weights).abs().max()),
    }


def _write(options: Options, directory: Path, posterior: Posterior, summary: dict[str, Any]) -> None:
    """The posterior, as `ttvi.load` reads it, with summary.json and corner.png next to it."""
    directory.mkdir(parents=True, exist_ok=True)
    posterior.save(directory)
    text = json.dumps(_json_ready(summary), indent=2, ensure_ascii=False, allow_nan=False)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    if options.plot:
        dots = posterior.sample(_SCATTERED, seed=options.seed)
        corner(posterior, samples=dots, title=options.problem, path=directory / "corner.png")


def _json_ready(value: Any) -> Any:
    """The same with infinities and NaN, which JSON has no words for, as texts."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
