"""Training a flow on a Gaussian base: steps a CPU second and seconds to a given bound, beside normflows and zuko.

The target is a chain of 16 anharmonic oscillators whose evidence is known from a transfer operator. Every library gets
the same architecture (number of layers, widths, bins), batch, optimiser and precision, and draws fresh normal points;
each is trained on the reverse divergence as its own documentation does it. `ttvi` is timed as `ttvi.flow.fit` runs,
looks at held-out draws included. Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks import common
from benchmarks.common import Record, number

DIM = 16
BATCH = 256
LAYERS = 8
HIDDEN = (64, 64)
BINS = 8
BOUND = 5.0
RATE = 2e-3


def log_density(x: Any) -> Any:
    """Return log p̃ of the chain, (batch, d) -> (batch,)."""
    neighbours = (x[..., 1:] - x[..., :-1]).square().sum(-1)
    return -(0.25 * x.pow(4) + 0.5 * x.square()).sum(-1) - neighbours


def log_evidence() -> float:
    """Return log ∫ p̃ by the transfer operator on a fine grid."""
    import numpy as np

    grid, step = np.linspace(-5, 5, 801, retstep=True)
    site = np.exp(-0.25 * grid**4 - 0.5 * grid**2) * step
    bond = np.exp(-((grid[:, None] - grid[None, :]) ** 2))
    vector, log = site, 0.0
    for _ in range(DIM - 1):
        vector = (vector @ bond) * site
        log, vector = log + math.log(vector.sum()), vector / vector.sum()
    return log


class Trainer(ABC):
    """One library and one architecture."""

    package: ClassVar[str]

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed

    @abstractmethod
    def run(self, steps: int, every: int) -> list[tuple[int, float, float]]:
        """Train; return (step, CPU seconds of training so far, bound on fresh draws), `every` so many steps."""


class Ttvi(Trainer):
    """`ttvi.flow.fit` on an identity start."""

    package, objective = "ttvi", "mixed"

    def run(self, steps: int, every: int) -> list[tuple[int, float, float]]:
        """Train by the public call."""
        import torch
        from torch.distributions import Independent, Normal

        import ttvi.flow

        base = Independent(Normal(torch.zeros(DIM), torch.ones(DIM)), 1)
        layers = ttvi.flow.default_transforms(
            DIM, kind=self.kind, num_layers=LAYERS, hidden=HIDDEN, bins=BINS, bound=BOUND, activation="relu"
        )
        seen: list[tuple[int, float, float]] = []
        ttvi.flow.fit(
            base,
            log_density,
            transforms=layers,
            steps=steps,
            batch_size=BATCH,
            learning_rate=RATE,
            objective=self.objective,  # type: ignore[arg-type]
            seed=self.seed,
            callback=lambda record: seen.append((record.step, time.process_time(), record.elbo)),
        )
        return [(step, clock - seen[0][1], bound) for step, clock, bound in seen]


class TtviReverse(Ttvi):
    """The same objective as the others."""

    objective = "reverse"


class Peer(Trainer):
    """A library whose loop is written out: draw, divergence, Adam."""

    def run(self, steps: int, every: int) -> list[tuple[int, float, float]]:
        """Train; the clock stands still while the bound is measured."""
        import torch

        torch.manual_seed(self.seed)
        parameters, draw = self.build()
        optimizer = torch.optim.Adam(parameters, lr=RATE, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        seen, spent = [], 0.0
        for step in range(steps + 1):
            if step % every == 0:
                with torch.no_grad():
                    x, log_prob = draw(4096)
                    seen.append((step, spent, float((log_density(x) - log_prob).mean())))
            start = time.process_time()
            x, log_prob = draw(BATCH)
            loss = (log_prob - log_density(x)).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
            schedule.step()
            spent += time.process_time() - start
        return seen

    @abstractmethod
    def build(self) -> tuple[list[Any], Callable[[int], tuple[Any, Any]]]:
        """Return the parameters and a function that draws points with their log-density."""


class Normflows(Peer):
    """normflows: the last layer of every network starts at zero, as its documentation advises."""

    package = "normflows"

    def build(self) -> tuple[list[Any], Callable[[int], tuple[Any, Any]]]:
        """Stack couplings and permutations."""
        import normflows as nf

        layers: list[Any] = []
        for _ in range(LAYERS):
            if self.kind == "affine":
                net = nf.nets.MLP([DIM // 2, *HIDDEN, DIM], init_zeros=True)
                layers += [nf.flows.AffineCouplingBlock(net), nf.flows.Permute(DIM, mode="shuffle")]
            else:  # its spline networks are residual; one block has two hidden layers
                spline = nf.flows.CoupledRationalQuadraticSpline(DIM, 1, HIDDEN[0], num_bins=BINS, tail_bound=BOUND)
                layers += [spline, nf.flows.Permute(DIM, mode="shuffle")]
        model = nf.NormalizingFlow(nf.distributions.DiagGaussian(DIM, trainable=False), layers)
        return list(model.parameters()), model.sample


class Zuko(Peer):
    """zuko: couplings are two passes of a masked network; draws go through the inverse."""

    package = "zuko"

    def build(self) -> tuple[list[Any], Callable[[int], tuple[Any, Any]]]:
        """Build the flow of its catalogue."""
        import torch
        import zuko

        if self.kind == "affine":
            flow = zuko.flows.RealNVP(DIM, transforms=LAYERS, hidden_features=HIDDEN)
        else:
            flow = zuko.flows.NSF(DIM, bins=BINS, passes=2, transforms=LAYERS, hidden_features=HIDDEN)

        def draw(count: int) -> tuple[Any, Any]:
            return flow().rsample_and_log_prob(torch.Size([count]))

        return list(flow.parameters()), draw


TRAINERS: dict[str, type[Trainer]] = {
    "ttvi": Ttvi,
    "ttvi, reverse": TtviReverse,
    "normflows": Normflows,
    "zuko": Zuko,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow", description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="default: all")
    parser.add_argument("--kinds", nargs="+", choices=("affine", "spline"), default=["affine", "spline"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps (default: 1000)")
    parser.add_argument("--gap", type=float, default=0.2, help="nats below the log evidence to reach (default: 0.2)")
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--timeout", type=float, default=1800.0, help="wall seconds per run (default: 1800)")
    parser.add_argument("--output", type=Path, help="write PATH.md and PATH.json")
    parser.add_argument("--worker", nargs=3, metavar=("METHOD", "KIND", "SEED"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def worker(options: argparse.Namespace) -> None:
    """Train once; print a JSON record."""
    with common.worker_output(memory_gib=0) as record:
        import torch

        torch.set_num_threads(options.threads)
        method, kind, seed = options.worker
        trainer = TRAINERS[method](kind, int(seed))
        trainer.run(5, 5)  # once before the clock: lazy imports
        seen = trainer.run(options.steps, max(1, options.steps // 20))
        exact = log_evidence()
        record.update(version=common.version(trainer.package), steps_per_second=seen[-1][0] / seen[-1][1])
        record.update(gap=exact - seen[-1][2], seconds_to_gap=crossing(seen, exact - options.gap), history=seen)


def crossing(seen: Sequence[tuple[int, float, float]], level: float) -> float | None:
    """Return the seconds at which the bound first reaches the level, interpolated: not all look equally often."""
    for (_, before, low), (_, after, high) in zip(seen, seen[1:], strict=False):
        if high >= level:
            return after if low >= high else before + (after - before) * max(0.0, level - low) / (high - low)
    return None


def measure(options: argparse.Namespace) -> list[Record]:
    """Run everything in turn; return the records."""
    records = []
    settings = ["--steps", options.steps, "--gap", options.gap, "--threads", options.threads]
    for kind in options.kinds:
        for seed in options.seeds:  # the methods one after the other: what else the machine does meets all of them
            for method in options.methods:
                record = common.run_worker(
                    "benchmarks.flow",
                    [method, kind, str(seed), *map(str, settings)],
                    threads=options.threads,
                    timeout=options.timeout,
                )
                records.append({"method": method, "kind": kind, "seed": seed, **record})
                shown = {key: value for key, value in records[-1].items() if key != "history"}
                sys.stderr.write(f"{shown}\n")
    return records


def summarize(records: list[Record], options: argparse.Namespace) -> str:
    """Return a markdown table of medians over the seeds."""
    import statistics

    rows = []
    for kind in options.kinds:
        for method in options.methods:
            runs = [r for r in records if r["kind"] == kind and r["method"] == method]
            good = [r for r in runs if "failure" not in r]
            if not good:
                rows.append([kind, method, runs[0]["failure"] if runs else "–", "–", "–"])
                continue
            reached = [r["seconds_to_gap"] for r in good]
            seconds = "not reached" if None in reached else number(statistics.median(reached))
            median = [number(statistics.median(r[key] for r in good)) for key in ("steps_per_second", "gap")]
            rows.append([kind, method, median[0], seconds, median[1]])
    header = [
        "couplings",
        "library",
        "steps / s",
        f"s to log Z − {options.gap:g}",
        f"log Z − ELBO after {options.steps}",
    ]
    title = (
        f"Chain of {DIM} anharmonic oscillators, Gaussian base, {LAYERS} couplings of widths {HIDDEN}, batch {BATCH}, "
        f"float32, {options.threads} thread(s); medians over {len(options.seeds)} seeds."
    )
    return f"{title}\n\n" + common.table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements and print their table."""
    common.run(parse(arguments), worker, measure, summarize)


if __name__ == "__main__":
    main()
