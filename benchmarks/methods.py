"""The libraries compared by `benchmarks.cross`, behind one face: prepare (imports), fit (timed), score.

Every library runs with its documented defaults except for what a user of the target would set: tolerance 1e-6, the
case's rank limit where there is one, and the largest number of sweeps. They are imported by the worker process alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.grid import GridTarget, score_points, score_train
from benchmarks.targets import Target, find_maximum

TOLERANCE = 1e-6
Scores = dict[str, Any]


class Method(ABC):
    """One library on one target."""

    package: str

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.seed = target, seed
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 -- tntorch draws from NumPy's global state
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Import the library and build what it is handed for nothing; not timed."""

    @abstractmethod
    def fit(self) -> None:
        """Approximate the target; timed."""

    @abstractmethod
    def score(self, count: int) -> Scores:
        """Score the approximation by `count` exact draws."""


class Ttvi(Method):
    """ttvi with its defaults: it is told neither the rank nor the maximum."""

    package = "ttvi"

    def prepare(self) -> None:
        """Build the bases."""
        import ttvi

        self.tt = ttvi.tt
        basis = ttvi.tt.Fourier if self.target.case.basis == "fourier" else ttvi.tt.Legendre
        bounds = zip(self.target.lower.tolist(), self.target.upper.tolist(), strict=True)
        self.bases = [basis(lower, upper, size=self.target.case.nodes) for lower, upper in bounds]

    def fit(self) -> None:
        """Fit the density."""
        self.density = self.tt.TTDensity.fit(self.target.log_density, self.bases, generator=self.generator)

    def score(self, count: int) -> Scores:
        """Weigh continuous draws."""
        points = self.density.sample((count,), generator=self.generator)
        scores: Scores = score_points(self.target, points, self.density.log_prob(points))
        scores["log_evidence_error"] = abs(float(self.density.log_evidence) - self.target.log_evidence)
        scores["status"] = str(self.density.info.status)
        scores["reported_evaluations"] = int(self.density.info.num_evaluations)
        return scores


class GridMethod(Method):
    """A library that approximates the tensor of square roots on the grid; `cores` holds its train."""

    cores: list[Tensor]

    def prepare(self) -> None:
        """Build the grid tensor, its shift found for nothing."""
        self.grid = GridTarget(self.target)
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Import the library."""

    def score(self, count: int) -> Scores:
        """Weigh exact draws of grid cells."""
        return score_train(self.grid, self.cores, count, self.generator)


class Tntorch(GridMethod):
    """tntorch.cross: alternating fibers, ranks grown by three a sweep from random ones, validated at uniform points."""

    package = "tntorch"

    def load(self) -> None:
        """Import tntorch, which mixes tensors of the default dtype into its interfaces."""
        import tntorch

        torch.set_default_dtype(torch.float64)
        self.tntorch = tntorch

    def fit(self) -> None:
        """Cross approximation over a domain of indices: the weights belong to the grid, not to the point."""
        tensor = self.tntorch.cross(
            function=lambda index: self.grid(index.round().long()),
            domain=[torch.arange(size, dtype=torch.float64) for size in self.grid.shape],
            function_arg="matrix",
            eps=TOLERANCE,
            rmax=self.target.case.max_rank,
            verbose=False,
            suppress_warnings=True,
        )
        self.cores = list(tensor.cores)


class TorchttDmrg(GridMethod):
    """torchTT's two-mode cross: n^2 r^2 evaluations a step, ranks from a singular value decomposition."""

    package = "torchTT"

    def load(self) -> None:
        """Import torchTT."""
        import torchtt
        import torchtt.interpolate

        self.torchtt = torchtt

    def fit(self) -> None:
        """Run dmrg_cross for at most its default ten sweeps."""
        limit = self.target.case.max_rank
        train = self.torchtt.interpolate.dmrg_cross(self.grid, self.grid.shape, eps=TOLERANCE, rmax=limit)
        self.cores = list(train.cores)


class TorchttAmen(TorchttDmrg):
    """torchTT's one-mode cross with residual enrichment, over a train per coordinate."""

    def fit(self) -> None:
        """Run function_interpolate with method="amen"."""
        indices = [torch.arange(size, dtype=torch.float64) for size in self.grid.shape]
        train = self.torchtt.interpolate.function_interpolate(
            lambda index: self.grid(index.round().long()),
            self.torchtt.meshgrid(indices),
            eps=TOLERANCE,
            rmax=self.target.case.max_rank,
            method="amen",
        )
        self.cores = list(train.cores)


class Teneva(GridMethod):
    """teneva.cross: maxvol sweeps whose ranks grow by one a half-sweep."""

    package = "teneva"

    def load(self) -> None:
        """Import teneva."""
        import teneva

        self.teneva = teneva

    def fit(self) -> None:
        """Sweep until the train changes by less than the tolerance or its ranks have passed the limit."""
        start = self.teneva.rand(self.grid.shape, 2, seed=self.seed)
        sweeps = max(1, self.target.case.max_rank // 2)
        train = self.teneva.cross(
            lambda index: self.grid(torch.from_numpy(index).long()).numpy(), start, e=TOLERANCE, nswp=sweeps
        )
        self.cores = [torch.from_numpy(np.asarray(core)) for core in train]


class DeepTensorDirt(Method):
    """deep-tensor's DIRT with its defaults: tempered layers over a truncated Gaussian, Legendre order 30."""

    package = "deep-tensor-py"

    def prepare(self) -> None:
        """Import deep_tensor, which sets the default dtype, and find the shift it is handed."""
        import deep_tensor

        self.deep_tensor = deep_tensor
        self.shift = find_maximum(self.target)
        self.bounds = torch.stack([self.target.lower, self.target.upper], dim=1)

    def potential(self, x: Tensor) -> Tensor:
        """Return the negative shifted log-density."""
        return self.shift - self.target.log_density(x)

    def fit(self) -> None:
        """Build the layers."""
        dt = self.deep_tensor
        bases = dt.ApproxBases(dt.Legendre(order=30), self.target.dim)
        train = dt.FTT(bases, tt=dt.TT(dt.TTOptions(verbose=0)))
        mapping = dt.UniformMapping(self.bounds)
        self.transport = dt.DIRT(self.potential, mapping, train, options=dt.DIRTOptions(verbose=0))

    def score(self, count: int) -> Scores:
        """Weigh continuous draws."""
        reference = self.transport.reference.random(count, self.target.dim)
        parts = [self.transport.eval_irt(part) for part in reference.split(512)]
        points, potential = (torch.cat([part[i] for part in parts]) for i in range(2))
        scores: Scores = score_points(self.target, points, -potential)
        log_evidence = self.shift + float(self.transport.log_z)
        scores["log_evidence_error"] = abs(log_evidence - self.target.log_evidence)
        scores["layers"] = self.transport.num_layers
        return scores


class DeepTensorSirt(DeepTensorDirt):
    """deep-tensor's single squared transport on the box itself: the basis, ranks and sweeps the target wants."""

    def fit(self) -> None:
        """Build one layer with four sweeps instead of the default one."""
        dt, case = self.deep_tensor, self.target.case
        basis = dt.Fourier(order=case.nodes // 2) if case.basis == "fourier" else dt.Legendre(order=case.nodes - 1)
        options = dt.TTOptions(verbose=0, max_als=4, max_rank=case.max_rank, init_rank=min(20, case.max_rank))
        train = dt.FTT(dt.ApproxBases(basis, self.target.dim), tt=dt.TT(options))
        mapping = dt.UniformMapping(self.bounds, dt.UniformReference())
        self.transport = dt.DIRT(
            self.potential, mapping, train, bridge=dt.SingleLayer(), options=dt.DIRTOptions(verbose=0)
        )


METHODS: dict[str, type[Method]] = {
    "ttvi": Ttvi,
    "tntorch": Tntorch,
    "torchtt-dmrg": TorchttDmrg,
    "torchtt-amen": TorchttAmen,
    "teneva": Teneva,
    "deep-tensor-dirt": DeepTensorDirt,
    "deep-tensor-sirt": DeepTensorSirt,
}
