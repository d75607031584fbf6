"""The experiments of "Tensorizing flows" (2023), side by side: ``python -m benchmarks.tensorizing_flows --seeds 5``.

In the paper's setting a train is truncated to a tiny rank, and the same flow is trained for as many steps on it and on
the Gaussian with the mean and the covariance of its draws. In ours `ttvi.fit` runs with its defaults. Fresh draws judge:
the reverse divergence against the exact evidence, the forward divergence on exact draws (`benchmarks.chain_draws`), ESS,
the evidence by weights, the share of a mode. With ``--peers`` flows of normflows and zuko follow on the same Gaussian, for
as many CPU seconds as train and flow took together (extra ``bench``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttvi
import ttvi.flow
import ttvi.problems
from benchmarks.chain_draws import ChainDraws, chain_draws
from benchmarks.common import Clock, Record, run_worker, worker_output
from benchmarks.fit import draw, in_chunks, middle_of
from benchmarks.flow_tables import curves, summary
from benchmarks.gaussian_peers import PEERS, train_peer
from ttvi.diagnostics import effective_sample_size, log_evidence, pareto_k
from ttvi.errors import ConvergenceWarning
from ttvi.problems import Problem
from ttvi.tt import TTDensity
from ttvi.tt.canonical import truncate


@dataclass(frozen=True)
class Setting:
    """How the paper's train comes about: a cross approximation up to `built`, truncated to `rank`."""

    rank: int
    built: int = 12
    tol: float = 1e-2


SETTINGS = {
    "free-ends-chain-50": Setting(3),
    "free-ends-chain-50-temperature-16": Setting(3),
    "antiferromagnetic-chain-25": Setting(1),
    "spin-glass-chain-35": Setting(1),
    "boundary-lattice-8-temperature-5": Setting(3, built=6),
    "boundary-lattice-8-temperature-1": Setting(3, built=6),
    "rosenbrock-11": Setting(4),
    "double-rosenbrock-11": Setting(4),
    "five-modes-30": Setting(2),
}
"""Targets and the ranks of the paper's programs."""

PAPER = ["train", "gaussian-flow", "train-flow", "train-budget"]
METHODS = [*PAPER, "fit"]
HIDDEN = (128,)
POOL = 10_000
"""Draws of the base that a flow is trained on, and those of the train that give the Gaussian its moments."""


# -- the targets --------------------------------------------------------------------------------------------------


def exact_draws(problem: Problem, count: int, folder: Path) -> ChainDraws | None:
    """Weighted exact draws, kept in a file; none of the lattices, which are no chains."""
    if problem.name.startswith("boundary-lattice"):
        return None
    path = folder / f"exact-{problem.name}-{count}.pt"
    if path.exists():
        return ChainDraws(**torch.load(path))
    single = ttvi.problems.get(problem.name.removeprefix("double-"))
    cells = [300] * problem.dim
    if "rosenbrock" in problem.name:  # the valley is narrow there
        cells[-2:] = [1600, 1200]
    generator = torch.Generator().manual_seed(20_000)
    assert single.lower is not None
    assert single.upper is not None
    draws = chain_draws(single.log_density, single.lower, single.upper, cells=cells, draws=count, generator=generator)
    if single.name != problem.name:  # one half is the mirror image
        signs = torch.randint(2, (count,), generator=generator) * 2 - 1
        draws.x[:, -1] *= signs
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"x": draws.x, "log_weights": draws.log_weights}, path)
    return draws


def shares(problem: Problem, exact: ChainDraws | None) -> Callable[[Tensor], Tensor] | None:
    """Which modes draws belong to, (n, d) -> (n, k): the problem's own, or the sides of a symmetric chain."""
    if problem.modes is not None:
        return problem.modes.responsibilities
    if exact is None or "chain" not in problem.name:
        return None
    direction = torch.linalg.eigh(torch.cov(exact.x.T)).eigenvectors[:, -1]

    def sides(x: Tensor) -> Tensor:
        positive = (x.double() @ direction > 0).double()
        return torch.stack([positive, 1 - positive], 1)

    return sides


# -- one run ------------------------------------------------------------------------------------------------------


def judged(problem: Problem, q: Any, exact: ChainDraws | None, draws: int, seed: int) -> Record:
    """What fresh draws of q, and exact draws of the target, say."""
    with torch.no_grad():
        x = draw(q, draws, torch.Generator().manual_seed(1_000_003 + seed))
        log_w = (in_chunks(problem.log_density, x) - in_chunks(q.log_prob, x)).double()
        log_w = torch.nan_to_num(log_w, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        value, error = log_evidence(log_w)
        assert problem.lower is not None
        assert problem.upper is not None
        outside = ((x < problem.lower) | (x > problem.upper)).any(1)
        record: Record = {
            "elbo": float(log_w.mean()),
            "ess": effective_sample_size(log_w),
            "pareto_k": pareto_k(log_w),
            "log_evidence": value,
            "standard_error": error,
            "outside": float(outside.double().mean()),
        }
        if problem.log_evidence is not None:
            record["kl"] = problem.log_evidence - record["elbo"]
            record["error"] = abs(value - problem.log_evidence)
        if exact is not None and problem.log_evidence is not None:
            log_p = problem.log_density(exact.x) - problem.log_evidence
            terms = (log_p - in_chunks(q.log_prob, exact.x)).double().nan_to_num(nan=math.inf, posinf=math.inf)
            record["forward_kl"] = float((exact.share * terms).sum())
        modes = shares(problem, exact)
        if modes is not None:
            record["shares"] = [float(share) for share in modes(x).double().mean(0)]
    return record


def paper_train(problem: Problem, setting: Setting, seed: int) -> TTDensity:
    """The train, cut to the tiny rank; its `info` is that of the fit."""
    fitted = TTDensity.fit(problem.log_density, problem.bases(), tol=setting.tol, max_rank=setting.built, seed=seed)
    return TTDensity(truncate(fitted.train, max_rank=setting.rank), fitted.bases, info=fitted.info)


def gaussian(draws: Tensor) -> torch.distributions.MultivariateNormal:
    """The normal distribution with the moments of draws."""
    return torch.distributions.MultivariateNormal(draws.mean(0), torch.cov(draws.T))


def trained(base: Any, units: Tensor, problem: Problem, options: argparse.Namespace, seed: int) -> tuple[Any, Any]:
    """The flow on a base after training, whether or not the library would have kept it, and the report."""
    from safetensors.torch import load_file

    parts = ttvi.flow.default_transforms(
        problem.dim,
        hidden=HIDDEN,
        loc=units.mean(0),
        scale=units.std(0),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float32,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.safetensors"
        flow = ttvi.flow.fit(
            base,
            problem.log_density,
            transforms=parts,
            steps=options.steps,
            batch_size=options.batch,
            pool_size=POOL,
            checkpoint=path,
            seed=seed,
        )
        if flow.info.kept:
            return flow, flow.info
        best = load_file(path)
    states = [best[f"best.{k}"].flatten() for k in range(sum(name.startswith("best.") for name in best))]
    torch.nn.utils.vector_to_parameters(torch.cat(states), [p for part in parts for p in part.parameters()])
    rejected = ttvi.flow.Flow(base, [part.double() for part in parts])
    return rejected, flow.info


def history(info: Any, before: int) -> list[tuple[int, float, float]]:
    """(evaluations in all, bound, ESS) at every look."""
    return [(before + point.step * _batch(info), point.elbo, point.ess) for point in info.history]


def _batch(info: Any) -> int:
    steps = max(1, info.history[-1].step)
    return round((info.history[-1].num_evaluations - info.history[0].num_evaluations) / steps)


def worker(name: str, seed: int, options: argparse.Namespace) -> None:
    """Run the methods of one target and seed in this process; print a record per method."""
    torch.set_num_threads(options.threads)
    with worker_output(0.0) as record, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the rank is capped on purpose
        problem, setting = ttvi.problems.get(name), SETTINGS[name]
        exact = exact_draws(problem, options.exact, options.json.parent)

        def keep(method: str, q: Any, evaluations: int, clock: Clock, **more: Any) -> None:
            record[method] = judged(problem, q, exact, options.draws, seed)
            record[method] |= {"evaluations": evaluations, "wall": clock.wall, "cpu": clock.cpu, **more}

        if "fit" in options.methods:
            with Clock() as clock:
                posterior = ttvi.fit(problem.log_density, **problem.fit_arguments, seed=seed)
            told = posterior.diagnostics
            more = {"verdict": posterior.verdict.level, "ranks": max(told.ranks, default=0)}
            more |= {"geometry": list(told.geometry), "stages": {k: list(v) for k, v in told.stages.items()}}
            keep("fit", posterior, int(told.num_evaluations), clock, **more)
        if not set(options.methods) - {"fit"}:
            return
        with Clock() as building:
            train = paper_train(problem, setting, seed)
        paid = train.info.num_evaluations
        ranks = max(train.train.ranks)
        if "train" in options.methods:
            keep("train", train, paid, building, ranks=ranks)
        units = train.sample((POOL,), generator=torch.Generator().manual_seed(seed))
        for method, base in (("train-flow", train), ("gaussian-flow", gaussian(units))):
            if method in options.methods:
                with Clock() as clock:
                    flow, info = trained(base, units, problem, options, seed)
                clock.wall, clock.cpu = clock.wall + building.wall, clock.cpu + building.cpu
                before = judged(problem, ttvi.flow.Flow(base), None, 4096, seed)["elbo"]
                more = {"kept": info.kept, "history": history(info, paid), "base_elbo": before, "ranks": ranks}
                keep(method, flow, paid + info.num_evaluations, clock, **more)
        if "train-budget" in options.methods:
            allowed = paid + options.steps * options.batch
            with Clock() as clock:
                free = TTDensity.fit(problem.log_density, problem.bases(), budget=allowed, seed=seed)
            keep("train-budget", free, free.info.num_evaluations, clock, ranks=max(free.train.ranks))
        for method in options.methods:
            if method in PEERS:
                seconds = options.seconds or 60.0
                with Clock() as clock:
                    flow, evaluations, seen = train_peer(
                        method, gaussian(units), problem.log_density, seconds, options.batch, seed
                    )
                seen = [(paid + step * options.batch, bound, math.nan) for step, bound in seen]
                keep(method, flow, paid + evaluations, clock, history=seen)


# -- the command line ---------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensorizing_flows", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="CASE", help="targets")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *PEERS], default=METHODS, help="default: ours")
    parser.add_argument("--peers", action="store_true", help="normflows and zuko, after the others are in the file")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, … (default %(default)s)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=250, help="of every flow (default %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="draws per step (default %(default)s)")
    parser.add_argument("--draws", type=int, default=10_000, help="fresh draws that judge (default %(default)s)")
    parser.add_argument("--exact", type=int, default=5_000, help="exact draws (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds per target, seed and group of methods")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/tensorizing_flows.json"))
    parser.add_argument("--pictures", type=Path, help="write loss curves to this folder (matplotlib)")
    parser.add_argument("--table-only", action="store_true", help="run nothing; table and pictures of the file")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=2, metavar=("CASE", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def groups(options: argparse.Namespace) -> list[list[str]]:
    """Methods that share a process: all that share a train; `fit`, which may run out of time, by itself."""
    methods = list(PEERS) if options.peers else options.methods
    together = [method for method in methods if method != "fit"]
    return [group for group in (together, ["fit"] if "fit" in methods else []) if group]


def measure(options: argparse.Namespace, rows: list[Record]) -> None:
    """Run what is not in the rows yet, seed by seed; the file is written after every process."""
    done = {(row["case"], row["seed"], row["method"]) for row in rows}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for case in options.cases:
            for group in groups(options):
                missing = [method for method in group if (case, seed, method) not in done]
                if not missing:
                    continue
                arguments = [case, str(seed), "--methods", *missing]
                arguments += [
                    f"--{key}={getattr(options, key)}"
                    for key in ("steps", "batch", "draws", "exact", "threads", "json")
                ]
                if options.peers:
                    beside = [r for r in rows if r["case"] == case and r["method"] == "train-flow" and "cpu" in r]
                    arguments.append(f"--seconds={middle_of(beside, 'cpu') or 60.0}")
                record = run_worker(
                    "benchmarks.tensorizing_flows", arguments, threads=options.threads, timeout=options.timeout
                )
                for method in missing:
                    own = record.get(method) or {"failure": record.get("failure", "no record")}
                    rows.append({"case": case, "seed": seed, "method": method, **own})
                    said = own.get("failure") or f"ELBO {own['elbo']:.3f}, ESS {own['ess']:.4f}, {own['wall']:.1f} s"
                    sys.stdout.write(f"{case} seed {seed} {method}: {said}\n")
                    sys.stdout.flush()
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table, draw the pictures."""
    options = parse(arguments)
    if options.worker:
        worker(options.worker[0], int(options.worker[1]), options)
        return
    options.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Record] = json.loads(options.json.read_text()) if options.json.exists() else []
    if not options.table_only:
        measure(options, rows)
    evidence = {name: ttvi.problems.get(name).log_evidence for name in options.cases}
    sys.stdout.write("\n" + summary(rows, evidence) + "\n")
    if options.pictures is not None:
        curves(rows, evidence, options.pictures)


if __name__ == "__main__":
    main()
