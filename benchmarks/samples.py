"""Densities from samples: ttvi and a neural spline flow of zuko at equal wall seconds, against the true density.

Every fit has a process of its own. The held-out log-likelihood is the mean over rows that no fit has seen; the gap to the
truth is the Kullback-Leibler divergence. zuko trains, float32 and Adam with a cosine schedule as its authors do, for as
long as ttvi took. One problem is conditional: p(θ | y) of two modes, from joint samples, for a thousand observations at once.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Record, number

METHODS = ["ttvi", "ttvi-flow", "zuko-nsf"]
FRESH = 20_000
CHUNK = 5_000
OBSERVATIONS = 1_000
LEVELS = (0.5, 0.8, 0.9, 0.95)


def _normal(x: Any, mean: Any, sd: Any) -> Any:
    import torch

    return -0.5 * ((x - mean) / sd) ** 2 - torch.log(torch.as_tensor(sd, dtype=x.dtype)) - 0.5 * math.log(2 * math.pi)


class Ring:
    """Eight Gaussians of standard deviation 0.2 on a circle of radius 2."""

    def sample(self, count: int, g: Any) -> Any:
        """Draw rows."""
        import torch

        angle = torch.randint(8, (count,), generator=g) * math.pi / 4
        center = 2 * torch.stack([angle.cos(), angle.sin()], 1).double()
        return center + 0.2 * torch.randn(count, 2, generator=g, dtype=torch.float64)

    def log_prob(self, x: Any) -> Any:
        """Return the true log-density."""
        import torch

        angle = torch.arange(8) * math.pi / 4
        center = 2 * torch.stack([angle.cos(), angle.sin()], 1).double()
        return torch.logsumexp(_normal(x[:, None], center, 0.2).sum(-1), 1) - math.log(8)


class Checkerboard:
    """Uniform on eight of the sixteen squares of side 2 in [-4, 4]²."""

    def sample(self, count: int, g: Any) -> Any:
        """Draw rows."""
        import torch

        x, y = 8 * torch.rand(count, generator=g).double() - 4, torch.rand(count, generator=g).double()
        row = 2 * torch.randint(2, (count,), generator=g) + torch.floor((x + 4) / 2).long() % 2
        return torch.stack([x, 2 * (row + y) - 4], 1)

    def log_prob(self, x: Any) -> Any:
        """Return the true log-density."""
        import torch

        return torch.full_like(x[:, 0], -math.log(32))


class Power:
    """A household by the hour, d = 6: time of day, active and reactive power, voltage, a sub-meter, intensity.

    Two states of demand whose odds follow the hour, a parabola, a device that switches on with the demand, and linear
    links, each with noise of its own.
    """

    def sample(self, count: int, g: Any) -> Any:
        """Draw rows."""
        import torch

        def noise() -> Any:
            return torch.randn(count, generator=g, dtype=torch.float64)

        def uniform() -> Any:
            return torch.rand(count, generator=g, dtype=torch.float64)

        hour = uniform()
        high = uniform() < torch.sigmoid(2 * torch.sin(2 * math.pi * hour))
        active = torch.where(high, 1 + 0.5 * torch.cos(2 * math.pi * hour) + 0.4 * noise(), -1 + 0.3 * noise())
        reactive = 0.5 * active**2 + (0.3 + 0.1 * torch.sigmoid(active)) * noise()
        voltage = -0.6 * active + 0.5 * noise()
        on = uniform() < torch.sigmoid(1.5 * active)
        meter = torch.where(on, 1.5 + 0.3 * voltage + 0.3 * noise(), 0.2 * noise())
        intensity = active - 0.3 * voltage + 0.3 * meter + 0.3 * noise()
        return torch.stack([hour, active, reactive, voltage, meter, intensity], 1)

    def log_prob(self, x: Any) -> Any:
        """Return the true log-density."""
        import torch

        hour, active, reactive, voltage, meter, intensity = x.unbind(1)
        high = 2 * torch.sin(2 * math.pi * hour)
        demand = torch.logaddexp(
            torch.nn.functional.logsigmoid(high) + _normal(active, 1 + 0.5 * torch.cos(2 * math.pi * hour), 0.4),
            torch.nn.functional.logsigmoid(-high) + _normal(active, -1.0, 0.3),
        )
        device = torch.logaddexp(
            torch.nn.functional.logsigmoid(1.5 * active) + _normal(meter, 1.5 + 0.3 * voltage, 0.3),
            torch.nn.functional.logsigmoid(-1.5 * active) + _normal(meter, 0.0, 0.2),
        )
        rest = _normal(reactive, 0.5 * active**2, 0.3 + 0.1 * torch.sigmoid(active)) + _normal(
            voltage, -0.6 * active, 0.5
        )
        return demand + device + rest + _normal(intensity, active - 0.3 * voltage + 0.3 * meter, 0.3)


class Bimodal:
    """θ uniform on [-2, 2], y = θ² + 0.4 ε: the sign of θ is lost. Columns θ and y; the density is that of θ given y."""

    def __init__(self) -> None:
        import torch

        self.grid = torch.linspace(-2, 2, 801, dtype=torch.float64)[:-1] + 0.0025

    def sample(self, count: int, g: Any) -> Any:
        """Draw rows."""
        import torch

        theta = 4 * torch.rand(count, generator=g, dtype=torch.float64) - 2
        return torch.stack([theta, theta**2 + 0.4 * torch.randn(count, generator=g, dtype=torch.float64)], 1)

    def log_prob(self, x: Any) -> Any:
        """Return the true log-density of the first column given the second."""
        import torch

        theta, y = x.unbind(1)
        evidence = torch.logsumexp(_normal(y, self.grid[:, None] ** 2, 0.4), 0) + math.log(0.005)
        return _normal(y, theta**2, 0.4) - evidence

    def worst_coverage(self, fitted: Any, y: Any) -> float:
        """Return the largest gap between nominal and true mean mass of sets of highest fitted density, shape (grid, y)."""
        import torch

        exact = _normal(y, self.grid[:, None] ** 2, 0.4).softmax(0)
        fitted = fitted.softmax(0)
        order = fitted.argsort(0, descending=True)
        mass, inside = exact.gather(0, order), fitted.gather(0, order).cumsum(0)
        return max(abs(float(torch.where(inside <= level, mass, 0.0).sum(0).mean()) - level) for level in LEVELS)


PROBLEMS = {"ring": Ring(), "checkerboard": Checkerboard(), "power": Power(), "bimodal": Bimodal()}
CONDITIONAL = "bimodal"


def fit_ttvi(x: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Fit a density to the rows."""
    import torch

    import ttvi

    density = ttvi.tt.TTDensity.fit_samples(x, seed=options.seed, dtype=torch.float32)
    return density.log_prob, f"{density.info.status}, rank {max(density.train.ranks)}"


def fit_ttvi_flow(x: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Fit a density to the rows, and a flow on top of it."""
    import torch

    from ttvi.flow import fit_samples
    from ttvi.tt import TTDensity

    density = TTDensity.fit_samples(x, seed=options.seed, dtype=torch.float32)
    flow = fit_samples(density, x.float(), seed=options.seed, steps=options.flow_steps)
    return flow.log_prob, f"rank {max(density.train.ranks)}, flow {'kept' if flow.transforms else 'left out'}"


def fit_zuko(x: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Train a neural spline flow of three transforms with two hidden layers of 128, for `seconds`."""
    import torch
    import zuko

    torch.manual_seed(options.seed)
    x = x.float()
    mean, sd = x.mean(0), x.std(0)
    z, order = (x - mean) / sd, torch.randperm(len(x))
    held, train = z[order[: len(z) // 10]], z[order[len(z) // 10 :]]
    flow = zuko.flows.NSF(x.shape[1], transforms=3, bins=8, hidden_features=(128, 128))
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    started, steps, best, state = time.perf_counter(), 0, math.inf, flow.state_dict()
    while (elapsed := time.perf_counter() - started) < options.seconds:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * elapsed / options.seconds))
        batch = train[torch.randint(len(train), (512,))]
        loss = -flow().log_prob(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        steps += 1
        if steps % 200 == 0:
            with torch.no_grad():
                score = -float(flow().log_prob(held).mean())
            if score < best:
                best, state = score, {k: v.clone() for k, v in flow.state_dict().items()}
    flow.load_state_dict(state)
    return lambda v: flow().log_prob((v.float() - mean) / sd) - sd.log().sum(), f"{steps} steps"


FITS = {"ttvi": fit_ttvi, "ttvi-flow": fit_ttvi_flow, "zuko-nsf": fit_zuko}


def fit_conditional(x: Any, y: Any, options: argparse.Namespace) -> tuple[Any, str]:
    """Fit the first column given the second: condition a joint density, or give a flow the second as context."""
    import ttvi

    if options.methods[0] == "ttvi":
        density = ttvi.tt.TTDensity.fit_samples(x, seed=options.seed)
        return density.condition({1: y}).log_prob, f"rank {max(density.train.ranks)}"
    from ttvi.flow import fit_samples

    flow = fit_samples(None, x[:, :1], context=x[:, 1:], seed=options.seed, steps=options.flow_steps)

    def log_prob(theta: Any) -> Any:
        return flow.log_prob(theta.expand(len(y), 1), y[:, None])

    return log_prob, f"flow, {flow.info.steps} steps"


def work_conditional(options: argparse.Namespace) -> None:
    """Fit one method to the conditional problem and print its record."""
    with common.worker_output(options.memory) as record:
        import torch

        torch.set_num_threads(options.threads)
        problem = Bimodal()
        generator = torch.Generator().manual_seed(options.seed)
        x, fresh = problem.sample(options.rows, generator), problem.sample(OBSERVATIONS, generator)
        y = fresh[:, 1]
        with common.Clock() as clock:
            log_prob, note = fit_conditional(x, y, options)
        with torch.no_grad():
            values = log_prob(fresh[:, :1]).double()
            # One observation after the other: pairs of all points with all observations take memory.
            fitted = torch.stack([log_prob(point.view(1, 1)).double() for point in problem.grid])
        truth = problem.log_prob(fresh)
        coverage = problem.worst_coverage(fitted, y)
        record.update(seconds=clock.wall, truth=float(truth.mean()), log_likelihood=float(values.mean()))
        record.update(gap=float((truth - values).mean()), outside=0, coverage=coverage)
        record.update(note=f"{note}, coverage within {100 * coverage:.1f} %")


def work(options: argparse.Namespace) -> None:
    """Fit one method to one problem and print its record."""
    with common.worker_output(options.memory) as record:
        import torch

        torch.set_num_threads(options.threads)
        problem = PROBLEMS[options.problems[0]]
        generator = torch.Generator().manual_seed(options.seed)
        x, fresh = problem.sample(options.rows, generator), problem.sample(FRESH, generator)
        with common.Clock() as clock:
            log_prob, note = FITS[options.methods[0]](x, options)
        with torch.no_grad():
            values = torch.cat([log_prob(part).double() for part in fresh.split(CHUNK)])
        outside = ~torch.isfinite(values)
        truth = problem.log_prob(fresh)
        record.update(
            seconds=clock.wall,
            truth=float(truth.mean()),
            log_likelihood=float(values[~outside].mean()),
            gap=float((truth - values)[~outside].mean()),
            outside=int(outside.sum()),
            note=note,
        )


def row(problem: str, method: str, record: Record) -> list[object]:
    """Return one line of the table."""
    if "failure" in record:
        return [problem, method, "–", "–", "–", "–", "–", record["failure"]]
    return [
        problem,
        method,
        number(record["seconds"]),
        f"{record['truth']:.3f}",
        f"{record['log_likelihood']:.3f}",
        f"{record['gap']:.3f}",
        record["outside"],
        record["note"],
    ]


HEADER = ["problem", "method", "seconds", "truth", "log-likelihood", "gap (nats)", "outside", "note"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--rows", type=int, default=50_000, help="samples to fit, held-out ones included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="for zuko where ttvi is not run")
    parser.add_argument("--flow-steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=1800.0)
    parser.add_argument("--memory", type=float, default=0.0, help="limit in GiB")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        (work_conditional if options.problems[0] == CONDITIONAL else work)(options)
        return
    rows, records = [], {}
    for problem in options.problems:
        seconds = options.seconds
        for method in options.methods:
            if problem == CONDITIONAL and method not in ("ttvi", "ttvi-flow"):
                continue
            command = [
                "--problems",
                problem,
                "--methods",
                method,
                "--rows",
                str(options.rows),
                "--seconds",
                str(seconds),
            ]
            command += ["--seed", str(options.seed), "--flow-steps", str(options.flow_steps)]
            command += ["--threads", str(options.threads), "--memory", str(options.memory)]
            record = common.run_worker("benchmarks.samples", command, threads=options.threads, timeout=options.timeout)
            if method == "ttvi" and "seconds" in record:
                seconds = record["seconds"]
            rows.append(row(problem, method, record))
            records[f"{problem}/{method}"] = record
    text = common.table(HEADER, rows)
    print(text)
    common.write(options.output, text, records)


if __name__ == "__main__":
    main()
