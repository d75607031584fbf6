"""The price of draws and of their log-probabilities at d = 64, n = 32, r = 16: ttvi and its peers.

Every method has a process of its own with the same number of threads. A method too slow for all the draws is timed on
fewer and scaled up, which is exact for costs that are linear in the number of draws; the table says on how many.
"""

from __future__ import annotations

import argparse
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from benchmarks import common
from benchmarks.common import Record, number, thousands


class Sampler(ABC):
    """One library's way to draw from a squared train, or from a flow of the same dimension.

    Args:
        shape: (d, n, r).
        seed: of the random cores and the draws.
    """

    package: str
    law: str  # what is drawn from
    exact = "exact"
    continuous: bool
    share = 1.0  # fraction of the asked draws that is measured

    def __init__(self, shape: tuple[int, int, int], seed: int) -> None:
        self.shape, self.seed = shape, seed
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Import the library and build the train; not timed."""

    @abstractmethod
    def sample(self, count: int) -> object:
        """Draw `count` points."""

    @abstractmethod
    def log_prob(self, draws: object) -> object:
        """Return the log-probabilities of draws."""


def random_cores(shape: tuple[int, int, int], seed: int) -> list:
    """Return right-orthogonal cores (r, n, r) of a random train of unit norm, ones at the ends."""
    import torch

    from benchmarks.grid import right_orthogonalize

    dim, size, rank = shape
    generator = torch.Generator().manual_seed(seed)
    ranks = [1] + [min(rank, size ** min(k, dim - k, 8)) for k in range(1, dim)] + [1]
    cores = [
        torch.randn(ranks[k], size, ranks[k + 1], generator=generator, dtype=torch.float64)
        # coefficients that decay, as those of a smooth density do
        * torch.exp(-0.3 * torch.arange(size, dtype=torch.float64))[:, None]
        for k in range(dim)
    ]
    return right_orthogonalize(cores)[0]


class Ttvi(Sampler):
    """Continuous draws from the square of the expansion."""

    package, law, continuous = "ttvi", "squared function, rank r", True

    def prepare(self) -> None:
        """Build the density from its cores."""
        import torch

        import ttvi

        bases = [ttvi.tt.Legendre(-1.0, 1.0, size=self.shape[1])] * self.shape[0]
        self.density = ttvi.tt.TTDensity(ttvi.tt.TensorTrain(random_cores(self.shape, self.seed)), bases)
        self.generator = torch.Generator().manual_seed(self.seed)

    def sample(self, count: int) -> object:
        """Draw."""
        return self.density.sample((count,), generator=self.generator)

    def log_prob(self, draws: object) -> object:
        """Evaluate the normalised density."""
        return self.density.log_prob(draws)


class Tntorch(Sampler):
    """Grid indices from a train taken as it is: no square, signs lost; the price at the same n and r."""

    package, law, continuous = "tntorch", "non-negative tensor, rank r", False

    def prepare(self) -> None:
        """Build a tensor of non-negative cores."""
        import tntorch
        import torch

        torch.set_default_dtype(torch.float64)
        self.tntorch, self.torch = tntorch, torch
        self.tensor = tntorch.Tensor(self.cores())
        # every draw gathers an (r, r) slice of every core; below some hundred draws the fixed cost of a call shows
        self.batch = max(512, 2**21 // max(core.shape[0] * core.shape[2] for core in self.tensor.cores))

    def cores(self) -> list:
        """Return the cores to draw from."""
        return [core.abs() for core in random_cores(self.shape, self.seed)]

    def sample(self, count: int) -> object:
        """Draw in batches, which bounds memory and is faster for it than all at once."""
        parts = [min(self.batch, count - start) for start in range(0, count, self.batch)]
        return self.torch.cat(
            [self.tntorch.sample(self.tensor, part, seed=self.seed + k) for k, part in enumerate(parts)]
        )

    def log_prob(self, draws: object) -> object:
        """Read the entries."""
        parts = draws.long().split(self.batch)
        return self.torch.cat([self.tensor[list(part.T)].torch().log() for part in parts])


class TntorchSquared(Tntorch):
    """Grid indices from the square, which tntorch must form: rank r^2."""

    law, share = "squared tensor, rank r²", 0.005

    def cores(self) -> list:
        """Return the Kronecker squares of the cores, (r^2, n, r^2)."""
        squares = []
        for core in random_cores(self.shape, self.seed):
            left, size, right = core.shape
            square = self.torch.einsum("anb,cnd->acnbd", core, core)
            squares.append(square.reshape(left * left, size, right * right))
        return squares


class Teneva(Sampler):
    """Grid indices from the squared tensor, one call of the generator a draw and mode."""

    package, law, continuous, share = "teneva", "squared tensor, rank r", False, 0.02

    def prepare(self) -> None:
        """Build the train."""
        import teneva

        self.teneva = teneva
        self.train = [core.numpy() for core in random_cores(self.shape, self.seed)]

    def sample(self, count: int) -> object:
        """Draw."""
        return self.teneva.sample_square(self.train, count, unique=False, seed=self.seed)

    def log_prob(self, draws: object) -> object:
        """Read the entries, in batches for memory's sake."""
        import numpy as np

        parts = np.array_split(draws, max(1, len(draws) // 1000))
        return np.concatenate([2 * np.log(np.abs(self.teneva.get_many(self.train, part))) for part in parts])


class DeepTensor(Sampler):
    """Continuous draws by inverse Rosenblatt transport from a transport whose cores are replaced by the random ones."""

    package, law, continuous, share = "deep-tensor-py", "squared function, rank r", True, 0.02

    def prepare(self) -> None:
        """Fit a separable target at fixed ranks, exchange the cores and let it marginalise them again."""
        import deep_tensor as dt
        import torch

        dim, size, rank = self.shape
        reference = dt.UniformReference()
        options = dt.TTOptions(tt_method="fixed_rank", init_rank=rank, max_rank=rank, kick_rank=0, verbose=0)
        train = dt.FTT(dt.ApproxBases(dt.Legendre(order=size - 1), dim), tt=dt.TT(options))
        mapping = dt.UniformMapping(torch.tensor([[-1.0, 1.0]] * dim), reference)
        self.transport = dt.DIRT(
            lambda x: 0.5 * x.square().sum(dim=1),
            mapping,
            train,
            bridge=dt.SingleLayer(),
            options=dt.DIRTOptions(verbose=0),
        )
        layer = self.transport.sirts[0]
        layer.ftt.cores.update(enumerate(random_cores(self.shape, self.seed)))
        layer._marginalise_forward()
        layer._marginalise_backward()

    def sample(self, count: int) -> object:
        """Map uniform points, which also yields the log-density, in batches for memory's sake."""
        import torch

        points = self.transport.reference.random(count, self.shape[0])
        return torch.cat([self.transport.eval_irt(part)[0] for part in points.split(1000)])

    def log_prob(self, draws: object) -> object:
        """Evaluate the potential, for which it also computes the forward transport."""
        import torch

        return torch.cat([-self.transport.eval_potential(part) for part in draws.split(1000)])


class Spline(Sampler):
    """zuko's neural spline flow with its defaults, untrained: the price does not depend on training."""

    package, law, exact, continuous = "zuko", "autoregressive spline flow", "a flow", True
    passes: int | None = None
    share = 0.05

    def prepare(self) -> None:
        """Build the flow in float32, its default."""
        import torch
        import zuko

        torch.manual_seed(self.seed)
        self.torch = torch
        self.flow = zuko.flows.NSF(self.shape[0], transforms=3, hidden_features=(128, 128), passes=self.passes)()

    def sample(self, count: int) -> object:
        """Draw in batches of 10 000."""
        with self.torch.no_grad():
            return self.torch.cat([self.flow.sample((min(10_000, count - k),)) for k in range(0, count, 10_000)])

    def log_prob(self, draws: object) -> object:
        """Evaluate in batches of 10 000."""
        with self.torch.no_grad():
            return self.torch.cat([self.flow.log_prob(part) for part in draws.split(10_000)])


class SplineCoupling(Spline):
    """The same with coupling layers: two passes instead of d."""

    law, passes, share = "coupling spline flow", 2, 1.0


SAMPLERS: dict[str, type[Sampler]] = {
    "ttvi": Ttvi,
    "tntorch": Tntorch,
    "tntorch-squared": TntorchSquared,
    "teneva": Teneva,
    "deep-tensor": DeepTensor,
    "zuko-nsf": Spline,
    "zuko-nsf-coupling": SplineCoupling,
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument("--methods", nargs="+", help="methods (default: all)")
    parser.add_argument("--draws", type=int, default=100_000, help="draws priced (default: 100000)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, of which the median counts (default: 3)")
    parser.add_argument("--shape", nargs=3, type=int, default=[64, 32, 16], metavar=("D", "N", "R"))
    parser.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    parser.add_argument("--timeout", type=float, default=900.0, help="wall seconds per method (default: 900)")
    parser.add_argument("--output", type=Path, help="write PATH.md and PATH.json")
    parser.add_argument("--worker", metavar="METHOD", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def worker(options: argparse.Namespace) -> None:
    """Time one method; print a JSON record."""
    with common.worker_output(memory_gib=0) as record:
        import torch

        torch.set_num_threads(options.threads)
        sampler = SAMPLERS[options.worker](tuple(options.shape), seed=0)
        count = max(10, math.ceil(sampler.share * options.draws))
        draws = sampler.sample(count)
        sampler.log_prob(draws)  # both once before the clock: caches and lazy imports
        sample = common.repeat(lambda: sampler.sample(count), options.repeats)
        log_prob = common.repeat(lambda: sampler.log_prob(draws), options.repeats)
        scale = options.draws / count
        record.update(version=common.version(sampler.package), measured=count)
        record.update(sample_wall=sample[0] * scale, sample_cpu=sample[1] * scale)
        record.update(log_prob_wall=log_prob[0] * scale, log_prob_cpu=log_prob[1] * scale)


def measure(options: argparse.Namespace) -> list[Record]:
    """Run every method in turn; return the records."""
    settings = ["--draws", options.draws, "--repeats", options.repeats, "--threads", options.threads]
    settings += ["--shape", *options.shape]
    records = []
    for method in options.methods or SAMPLERS:
        sampler = SAMPLERS[method]
        record = common.run_worker(
            "benchmarks.sampling",
            [method, *map(str, settings)],
            threads=options.threads,
            timeout=options.timeout,
        )
        law = {"law": sampler.law, "exact": sampler.exact, "continuous": sampler.continuous}
        records.append({"method": method, **law, **record})
        sys.stderr.write(f"{method}: {record}\n")
    return records


def summarize(records: list[Record], options: argparse.Namespace) -> str:
    """Return a markdown table of CPU and wall seconds."""
    header = ["method", "draws from", "draws are", "measured on", "sample: CPU s", "wall s", "log_prob: CPU s"]
    header += ["wall s"]
    columns = ["sample_cpu", "sample_wall", "log_prob_cpu", "log_prob_wall"]
    rows = []
    for record in records:
        kind = "continuous" if record["continuous"] else "grid indices"
        cells = [number(record.get(column)) for column in columns]
        measured = str(record["failure"]) if "failure" in record else thousands(record["measured"])
        rows.append([record["method"], record["law"], kind, measured, *cells])
    dim, size, rank = options.shape
    title = f"Seconds per {options.draws:,} draws, d = {dim}, n = {size}, r = {rank}, {options.threads} thread(s)"
    return f"{title}, medians of {options.repeats}.\n\n" + common.table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurements and print their table."""
    common.run(parse(arguments), worker, measure, summarize)


if __name__ == "__main__":
    main()
