"""The targets of the comparisons: a problem, the box and grid it is put on, and its known log evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

import ttvi.problems

LogDensity = Callable[[Tensor], Tensor]
CHUNK = 1 << 17  # rows evaluated at once: bounds memory without changing what a method sees


class BudgetExceeded(RuntimeError):
    """More evaluations were asked for than the comparison allows."""


@dataclasses.dataclass(frozen=True)
class Case:
    """How a problem of `ttvi.problems` is put on a grid.

    Args:
        bounds: (lower, upper) pairs, repeated cyclically over the coordinates.
        nodes: grid nodes (= basis size) in every coordinate.
        max_rank: rank limit handed to the peers, with room above the rank the target needs. ttvi is not told.
        basis: "legendre" (Gauss nodes on an interval) or "fourier" (equispaced nodes on a circle).
        two_modes: whether draws are classified by the sign of their coordinate sum.
    """

    bounds: tuple[tuple[float, float], ...]
    nodes: int
    max_rank: int
    basis: str = "legendre"
    two_modes: bool = False


PI = torch.pi
CASES: dict[str, Case] = {  # by the name of the problem
    "ginzburg-landau-8": Case(((-3, 3),), 32, 24),
    "ginzburg-landau-16": Case(((-3, 3),), 32, 24),
    "ginzburg-landau-32": Case(((-3, 3),), 32, 24),
    "ginzburg-landau-64": Case(((-3, 3),), 48, 24),
    "free-ends-chain-50": Case(((-1, 1),), 32, 24),
    "double-well-chain-64": Case(((-3, 3),), 64, 16),
    "two-modes-8": Case(((-10, 10),), 64, 16, two_modes=True),
    "two-modes-8-sigma-0.5": Case(((-10, 10),), 64, 16, two_modes=True),
    "two-modes-8-sigma-0.25": Case(((-10, 10),), 64, 16, two_modes=True),
    "shells-10": Case(((-6, 6),), 64, 32),
    "many-well-32": Case(((-3, 3), (-5, 5)), 48, 16),
    "egg-box": Case(((0, 10 * PI),), 400, 100),
    "xy-ring-64": Case(((-PI, PI),), 33, 64, basis="fourier"),
}


@dataclasses.dataclass
class Target:
    """A case made ready: float64 bounds, the counted log-density, and the known log evidence."""

    case: Case
    log_density: CountedDensity
    lower: Tensor
    upper: Tensor
    log_evidence: float

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.lower)


class CountedDensity:
    """A log-density that counts the points it is given and stops at a budget.

    Args:
        function: maps (batch, d) points to (batch,) unnormalised log-densities.
        budget: number of points after which `BudgetExceeded` is raised.
    """

    def __init__(self, function: LogDensity, budget: int) -> None:
        self.function, self.budget, self.count = function, budget, 0

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate, count, and stop at the budget."""
        self.count += len(x)
        if self.count > self.budget:
            raise BudgetExceeded(f"more than {self.budget:,} evaluations")
        return self.uncounted(x)

    def uncounted(self, x: Tensor) -> Tensor:
        """Evaluate in chunks without counting, for what the comparison itself needs."""
        if len(x) <= CHUNK:
            return self.function(x)
        return torch.cat([self.function(part) for part in x.split(CHUNK)])


def load(name: str, budget: int = 1 << 62) -> Target:
    """Return the named target with a fresh evaluation counter."""
    case = CASES[name]
    problem = ttvi.problems.get(name)
    bounds = [case.bounds[k % len(case.bounds)] for k in range(problem.dim)]
    lower, upper = torch.tensor(bounds, dtype=torch.float64).T
    density = CountedDensity(problem.log_density, budget)
    return Target(case, density, lower, upper, float(problem.log_evidence))


def find_maximum(target: Target, *, starts: int = 4096, climbs: int = 64, steps: int = 300, seed: int = 0) -> float:
    """Return the largest log-density found from the best of random points by clipped gradient ascent.

    It is not counted: libraries that exponentiate the density themselves must be told a shift, and being told a good
    one for nothing is to their advantage.
    """
    generator = torch.Generator().manual_seed(seed)
    width = target.upper - target.lower
    x = target.lower + width * torch.rand(starts, target.dim, generator=generator, dtype=torch.float64)
    value = target.log_density.uncounted(x)
    x = x[value.topk(climbs).indices].clone().requires_grad_()
    best = value.detach().max()
    optimizer = torch.optim.Adam([x], lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps) + 1e-4
        optimizer.zero_grad()
        value = target.log_density.uncounted(x)
        (-value.sum()).backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(target.lower, target.upper)
        best = torch.maximum(best, value.detach().max())
    return float(best)
