"""The command line: ``ttvi fit <problem>`` and ``ttvi problems``."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from .diagnostics import Certificate, certify
from .errors import ConvergenceWarning
from .plots import corner
from .problems.problem import Problem
from .problems.registry import get, names
from .tt.cross import CrossOptions
from .tt.density import TTDensity

__all__ = ["Options", "Result", "format_table", "main", "run"]

_MAX_ROWS = 20
_SCATTERED = 1000


@dataclass(frozen=True)
class Options:
    """What ``ttvi fit`` is told.

    Attributes:
        problem: name of the problem.
        tol: relative tolerance of the train.
        max_rank: largest rank.
        budget: largest number of evaluations of the log-density, or None.
        seed: seed of the one generator that everything draws from.
        samples: number of fresh draws that judge the fit.
        output: directory for the summary, the density and the picture, or None to write nothing.
        plot: whether to draw the corner picture.
        quiet: whether to leave out the table and the progress line.
    """

    problem: str
    tol: float = CrossOptions.tol
    max_rank: int = CrossOptions.max_rank
    budget: int | None = None
    seed: int = 0
    samples: int = 10_000
    output: Path | None = None
    plot: bool = True
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """What `run` returns: the density, the judgement, and the numbers of ``summary.json``."""

    problem: Problem
    density: TTDensity
    certificate: Certificate
    summary: dict[str, Any]


def run(options: Options) -> Result:
    """Fit a named problem, judge the fit by fresh draws, and write what was found.

    Raises:
        ValueError: for a name or a setting that does not exist.
        ImportError: if a picture or a file is asked for and its extra is missing.
    """
    if options.samples < 1:
        raise ValueError(f"run: expected a positive number of samples; got {options.samples}. Use a few thousand.")
    problem = get(options.problem)
    generator = torch.Generator().manual_seed(options.seed)
    started = time.perf_counter()
    with _progress(problem.name, enabled=not options.quiet) as show, warnings.catch_warnings():
        # The table says how the fit ended; a warning on top would say it twice.
        warnings.simplefilter("ignore", ConvergenceWarning)
        density = TTDensity.fit(
            problem.log_density,
            problem.bases(),
            tol=options.tol,
            max_rank=options.max_rank,
            budget=options.budget,
            generator=generator,
            callback=show,
        )
    fit_seconds = time.perf_counter() - started
    certificate = certify(density, problem.log_density, num_samples=options.samples, generator=generator)
    summary = _summary(problem, density, certificate, fit_seconds)
    if options.output is not None:
        _write(options, problem, density, summary, generator)
    if not options.quiet:
        print(format_table(summary))
        if options.output is not None:
            print(f"\nwritten to {options.output}/")
    return Result(problem, density, certificate, summary)


def format_table(summary: dict[str, Any]) -> str:
    """The summary as a table that a person reads."""
    exact = summary["exact_log_evidence"]
    rows = [
        ("problem", summary["problem"]),
        ("dimensions", str(summary["dim"])),
        ("status", summary["status"]),
        ("", summary["message"]),
        ("log evidence", f"{summary['log_evidence']:.6f} ± {summary['standard_error']:.2g}"),
        ("  of the train", f"{summary['train_log_evidence']:.6f}"),
        ("  exact", "not known" if exact is None else f"{exact:.6f}"),
        ("ESS", f"{100 * summary['ess']:.2f} % of {summary['num_samples']} draws"),
        ("Pareto k", f"{summary['pareto_k']:.2f}{_remark(summary)}"),
        ("evaluations", f"{summary['num_evaluations']:,}"),
        ("seconds", f"{summary['seconds']:.1f}"),
        ("largest rank", str(summary["max_rank"])),
    ]
    lines = [f"{label:<16} {text}" for label, text in rows if text]
    coordinates = summary["coordinates"]
    width = max(10, *(len(row["name"]) for row in coordinates))
    lines += ["", f"{'coordinate':<{width}} {'mean':>12} {'sd':>12}"]
    lines += [f"{row['name']:<{width}} {row['mean']:>12.5f} {row['sd']:>12.5f}" for row in coordinates[:_MAX_ROWS]]
    if len(coordinates) > _MAX_ROWS:
        lines.append(f"… and {len(coordinates) - _MAX_ROWS} more")
    return "\n".join(lines)


def _remark(summary: dict[str, Any]) -> str:
    """What a Pareto k says: nothing where the weights are all but equal, however their last digits are distributed."""
    if summary["pareto_k"] < 0.7:
        return ""
    return "  (of weights that are all but equal)" if summary["ess"] > 0.99 else "  (not to be trusted)"


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
    parser = argparse.ArgumentParser(prog="ttvi", description="Fit tensor-train densities to named problems.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("problems", help="list the named problems")
    fit = commands.add_parser("fit", help="fit one of them and judge the fit")
    fit.add_argument("problem", help="a name from `ttvi problems`")
    fit.add_argument("--tol", type=float, default=defaults.tol, help="relative tolerance (default %(default)g)")
    fit.add_argument("--max-rank", type=int, default=defaults.max_rank, help="largest rank (default %(default)s)")
    fit.add_argument("--budget", type=int, help="largest number of evaluations (default: none)")
    fit.add_argument("--seed", type=int, default=defaults.seed, help="seed (default %(default)s)")
    fit.add_argument("--samples", type=int, default=defaults.samples, help="draws that judge it (default %(default)s)")
    fit.add_argument("--output", type=Path, metavar="DIR", help="write summary.json, density.safetensors, corner.png")
    fit.add_argument("--no-plot", action="store_true", help="write no picture")
    fit.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _options(parsed: argparse.Namespace) -> Options:
    return Options(
        problem=parsed.problem,
        tol=parsed.tol,
        max_rank=parsed.max_rank,
        budget=parsed.budget,
        seed=parsed.seed,
        samples=parsed.samples,
        output=parsed.output,
        plot=not parsed.no_plot,
        quiet=parsed.quiet,
    )


def _list_problems() -> None:
    for name in names():
        print(name)
    print("\nFamilies take other sizes too: ttvi fit ginzburg-landau-24")


def _summary(problem: Problem, density: TTDensity, certificate: Certificate, seconds: float) -> dict[str, Any]:
    """Everything worth keeping, as plain numbers and texts."""
    info = density.info
    if info is None:
        raise RuntimeError("run: expected a fitted density with a report; got none. Fit it with TTDensity.fit.")
    moments = zip(problem.names, density.mean.tolist(), density.variance.tolist(), strict=True)
    return {
        "problem": problem.name,
        "dim": problem.dim,
        "status": str(info.status),
        "message": info.message,
        "log_evidence": certificate.log_evidence,
        "standard_error": certificate.standard_error,
        "train_log_evidence": float(density.log_evidence),
        "exact_log_evidence": problem.log_evidence,
        "ess": certificate.ess,
        "pareto_k": certificate.pareto_k,
        "num_samples": certificate.num_samples,
        "num_evaluations": info.num_evaluations,
        "error": info.error,
        "seconds": seconds,
        "ranks": [int(rank) for rank in info.ranks],
        "max_rank": max(int(rank) for rank in info.ranks),
        "coordinates": [
            {"name": name, "mean": mean, "sd": math.sqrt(max(variance, 0.0))} for name, mean, variance in moments
        ],
    }


def _write(
    options: Options, problem: Problem, density: TTDensity, summary: dict[str, Any], generator: torch.Generator
) -> None:
    """summary.json, density.safetensors and corner.png into the output directory."""
    output = options.output
    assert output is not None
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_json_ready(summary), indent=2, ensure_ascii=False, allow_nan=False)
    (output / "summary.json").write_text(text + "\n", encoding="utf-8")
    density.save(output / "density.safetensors")
    if options.plot:
        dots = density.sample((_SCATTERED,), generator=generator)
        corner(density, names=problem.names, samples=dots, title=problem.name, path=output / "corner.png")


def _json_ready(value: Any) -> Any:
    """The same with infinities and NaN, which JSON has no words for, as texts."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _ProgressLine:
    """One line on a terminal, rewritten after each half-sweep."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream, self.width = name, stream, 0

    def __call__(self, record: Any) -> None:
        parts = [self.name, str(record.stage)]
        if record.beta < 1:
            parts.append(f"β {record.beta:.3g}")
        parts += [f"sweep {record.sweep}", f"rank {max(record.ranks)}", f"{record.num_evaluations:,} evaluations"]
        if record.error is not None:
            parts.append(f"error {record.error:.1e}")
        self._rewrite("  ".join(parts))

    def clear(self) -> None:
        if self.width:
            self._rewrite("")
            self.stream.write("\r")
            self.stream.flush()

    def _rewrite(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = len(text)


@contextlib.contextmanager
def _progress(name: str, *, enabled: bool) -> Iterator[_ProgressLine | None]:
    """A progress line when standard error is a terminal, else None."""
    line = _ProgressLine(name, sys.stderr) if enabled and sys.stderr.isatty() else None
    try:
        yield line
    finally:
        if line is not None:
            line.clear()


if __name__ == "__main__":
    sys.exit(main())
