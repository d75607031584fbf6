"""Exact draws of densities that are chains, log p̃(x) = Σ a_i(x_i) + Σ b_i(x_i, x_{i+1}), on a box.

Messages along a fine grid, draws back along it, a uniform draw within each cell, and the weights that repair what the
cells smear: weighted averages over these draws are averages over the density itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 200_000
"""Points evaluated at once: bounds memory."""


@dataclass(frozen=True)
class ChainDraws:
    """Weighted draws of a chain.

    Attributes:
        x: points, shape (n, d).
        log_weights: log p̃ minus the log-density they were drawn from, shape (n,); their mean weight is the evidence.
    """

    x: Tensor
    log_weights: Tensor

    @property
    def share(self) -> Tensor:
        """Weights that sum to one."""
        return self.log_weights.softmax(0)


def chain_draws(
    log_density: Callable[[Tensor], Tensor],
    lower: Tensor,
    upper: Tensor,
    *,
    cells: Sequence[int],
    draws: int,
    generator: torch.Generator,
) -> ChainDraws:
    """Draw from a chain.

    Args:
        log_density: (batch, d) -> (batch,); a sum of functions of neighbours.
        lower: corner of the box, shape (d,).
        upper: the other.
        cells: of the grid, per coordinate.
        draws: how many.
        generator: source of randomness.
    """
    widths = [(float(b) - float(a)) / n for a, b, n in zip(lower, upper, cells, strict=True)]
    grids = [float(a) + w * (torch.arange(n, dtype=torch.float64) + 0.5) for a, w, n in zip(lower, widths, cells)]
    dim = len(grids)
    middle = ((lower + upper) / 2).double()
    singles = [_on_grid(log_density, middle, {k: grid}) for k, grid in enumerate(grids)]
    offset = float(log_density(middle[None]))
    # messages[k]: log of the sum over the coordinates before k, and pairs[k]: log-density of k - 1 given k, up to a constant.
    messages = [torch.zeros(cells[0], dtype=torch.float64)]
    pairs: list[Tensor] = []
    for k in range(1, dim):
        both = _on_grid(log_density, middle, {k - 1: grids[k - 1], k: grids[k]})
        bond = both - singles[k][None, :]  # holds a_{k-1} and b_{k-1}
        pairs.append(messages[-1][:, None] + bond)
        messages.append(torch.logsumexp(pairs[-1], 0))
    last = messages[-1] + singles[-1] - offset
    index = torch.empty(draws, dim, dtype=torch.long)
    index[:, -1] = torch.multinomial(last.softmax(0), draws, replacement=True, generator=generator)
    log_cell = last.log_softmax(0)[index[:, -1]]
    for k in range(dim - 2, -1, -1):
        table = pairs[k].log_softmax(0).T.contiguous()
        for part in torch.arange(draws).split(max(1, 20_000_000 // cells[k])):
            rows = table[index[part, k + 1]]
            chosen = torch.multinomial(rows.exp(), 1, generator=generator)
            index[part, k] = chosen[:, 0]
            log_cell[part] += rows.gather(1, chosen)[:, 0]
    columns = [grid[index[:, k]] for k, grid in enumerate(grids)]
    jitter = torch.rand(draws, dim, generator=generator, dtype=torch.float64) - 0.5
    x = torch.stack(columns, 1) + jitter * torch.tensor(widths, dtype=torch.float64)
    log_drawn = log_cell - sum(math.log(width) for width in widths)
    return ChainDraws(x, log_density(x) - log_drawn)


def _on_grid(log_density: Callable[[Tensor], Tensor], middle: Tensor, grids: dict[int, Tensor]) -> Tensor:
    """Values on the product of one or two grids, the other coordinates in the middle of the box."""
    points = torch.cartesian_prod(*grids.values()).reshape(-1, len(grids))
    values = []
    for part in points.split(CHUNK):
        x = middle.expand(len(part), -1).clone()
        x[:, list(grids)] = part
        values.append(log_density(x))
    return torch.cat(values).reshape([len(grid) for grid in grids.values()])
