"""The single choke point for evaluations on a grid: counted, budgeted, batched, cached. No point is paid for twice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BudgetExhausted, EvaluationError
from ..typing import BatchFunction

__all__ = ["Grid", "GridFunction", "HashTable", "ReversedGrid"]


class HashTable:
    """Open addressing on 64-bit keys, vectorised: a batch of look-ups or insertions is a few gathers."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._keys = torch.zeros(1 << 17, dtype=torch.int64, device=device)
        self._values = torch.zeros(1 << 17, dtype=dtype, device=device)
        self._count = 0

    def find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Values and a mask of the keys that are present."""
        slots = self._probe(keys)
        return self._values[slots], self._keys[slots] == keys

    def insert(self, keys: Tensor, values: Tensor) -> None:
        """Add distinct keys that are not present yet."""
        if 2 * (self._count + keys.numel()) > self._keys.numel():
            self._grow(2 * (self._count + keys.numel()))
        self._count += keys.numel()
        slots = keys & (self._keys.numel() - 1)
        while keys.numel():
            free = self._keys[slots] == 0
            self._keys[slots[free]] = keys[free]  # on a collision inside the batch one of them wins
            placed = self._keys[slots] == keys
            self._values[slots[placed]] = values[placed]
            keys, values, slots = keys[~placed], values[~placed], slots[~placed]
            slots = (slots + 1) & (self._keys.numel() - 1)

    def _probe(self, keys: Tensor) -> Tensor:
        mask = self._keys.numel() - 1
        slots = keys & mask
        pending = torch.arange(keys.numel(), device=keys.device)
        while pending.numel():
            found = self._keys[slots[pending]]
            pending = pending[(found != keys[pending]) & (found != 0)]
            slots[pending] = (slots[pending] + 1) & mask
        return slots

    def _grow(self, needed: int) -> None:
        keys, values = self._keys, self._values
        used = keys != 0
        size = keys.numel()
        while size < 2 * needed:
            size *= 2
        self._keys = keys.new_zeros(size)
        self._values = values.new_zeros(size)
        self._count = 0
        self.insert(keys[used], values[used])


class Grid:
    """What a sweep needs of a function on a grid. ``left`` and ``right`` are index sets before and after mode ``k``."""

    mode_sizes: tuple[int, ...]

    def fibers(self, left: Tensor, right: Tensor) -> Tensor:
        """Values at left x mode x right, shapes ``(p, k)`` and ``(q, d - k - 1)`` to ``(p, n_k, q)``."""
        raise NotImplementedError

    def keys(self, indices: Tensor, start: int = 0) -> Tensor:
        """A 64-bit key per row of partial indices that begin at mode ``start``."""
        raise NotImplementedError

    def reversed(self) -> Grid:
        """The same function with its modes in the opposite order."""
        raise NotImplementedError


class GridFunction(Grid):
    """A function on the product of the nodes, with every value remembered.

    Args:
        function: ``(batch, d)`` points to ``(batch,)`` values.
        nodes: the nodes of every mode.
        caller: public name used in error messages.
        argument: the caller's name for ``function``.
        budget: the most evaluations that may be spent; ``None`` for no bound.
        max_batch: the most points in one call.
        invalid: what NaN and +inf are replaced by (they are counted); ``None`` makes them an error.
    """

    def __init__(
        self,
        function: BatchFunction,
        nodes: Sequence[Tensor],
        *,
        caller: str,
        argument: str,
        budget: int | None = None,
        max_batch: int | None = None,
        invalid: float | None = None,
    ) -> None:
        self.nodes = list(nodes)
        self.mode_sizes = tuple(len(x) for x in nodes)
        self.dtype, self.device = nodes[0].dtype, nodes[0].device
        self.budget, self.max_batch = budget, max_batch
        self.num_evaluations = 0
        self.num_invalid = 0
        self.largest = -torch.inf  # of all values seen
        self._function, self._caller, self._argument, self._invalid = function, caller, argument, invalid
        fixed = torch.Generator().manual_seed(0x5EED)
        top = torch.iinfo(torch.int64)
        self._mode_keys = [
            torch.randint(top.min, top.max, (n,), generator=fixed).to(self.device) for n in self.mode_sizes
        ]
        self._all_keys = torch.cat(self._mode_keys)
        self._offsets = torch.tensor([0, *itertools.accumulate(self.mode_sizes)][:-1], device=self.device)
        self._table = HashTable(self.dtype, self.device)
        self._requests: list[tuple[Tensor, ...]] = []
        self._values: list[Tensor] = []

    @property
    def remaining(self) -> float:
        """Evaluations left in the budget."""
        return float("inf") if self.budget is None else self.budget - self.num_evaluations

    def keys(self, indices: Tensor, start: int = 0) -> Tensor:
        """Sums of random 64-bit words, one per (mode, index): two of a million points coincide with probability 3e-8."""
        offsets = self._offsets[start : start + indices.shape[1]]
        return self._all_keys[indices + offsets].sum(1)

    def fibers(self, left: Tensor, right: Tensor) -> Tensor:
        k = left.shape[1]
        p, n, q = len(left), self.mode_sizes[k], len(right)
        keys = self.keys(left)[:, None, None] + self._mode_keys[k][:, None] + self.keys(right, k + 1)
        keys = keys.reshape(-1)
        values, present = self._table.find(keys)
        wanted = torch.nonzero(~present).squeeze(1)
        if wanted.numel():
            self._reserve(wanted.numel())
            request = (left, right, wanted)
            values[wanted] = self._pay(request, keys[wanted])
        return values.reshape(p, n, q)

    def values(self, indices: Tensor) -> Tensor:
        """Values at explicit multi-indices, shape ``(batch, d)`` to ``(batch,)``."""
        keys, inverse = torch.unique(self.keys(indices), return_inverse=True)
        first = torch.empty_like(keys).scatter_(0, inverse, torch.arange(len(indices), device=self.device))
        values, present = self._table.find(keys)
        wanted = torch.nonzero(~present).squeeze(1)
        if wanted.numel():
            self._reserve(wanted.numel())
            values[wanted] = self._pay((indices[first[wanted]],), keys[wanted])
        return values[inverse]

    def off_grid(self, x: Tensor) -> Tensor:
        """Values at arbitrary points, shape ``(batch, d)`` to ``(batch,)``: counted and kept, not looked up."""
        self._reserve(len(x))
        return self._pay((x.to(self.dtype), x.new_zeros(0)), None)

    def points(self) -> tuple[Tensor, Tensor]:
        """Every point paid for, shape ``(num_evaluations, d)``, and its value, in the order of payment."""
        chunks = [self._expand(request) for request in self._requests]
        if not chunks:
            return self.nodes[0].new_zeros(0, len(self.nodes)), self.nodes[0].new_zeros(0)
        x = torch.cat([chunk[: len(value)] for chunk, value in zip(chunks, self._values, strict=True)])
        return x, torch.cat(self._values)

    def reversed(self) -> ReversedGrid:
        return ReversedGrid(self)

    def coordinates(self, indices: Tensor) -> Tensor:
        """Points of a batch of multi-indices: ``(batch, d)`` to ``(batch, d)``."""
        return torch.stack([x[indices[:, k]] for k, x in enumerate(self.nodes)], 1)

    def _expand(self, request: tuple[Tensor, ...]) -> Tensor:
        if len(request) == 2:
            return request[0].clone()  # a function may work in place
        if len(request) == 1:
            return self.coordinates(request[0])
        left, right, wanted = request
        k = left.shape[1]
        n, q = self.mode_sizes[k], len(right)
        row, node, column = wanted // (n * q), wanted // q % n, wanted % q
        x = torch.empty(len(wanted), len(self.nodes), dtype=self.dtype, device=self.device)
        for j in range(k):
            x[:, j] = self.nodes[j][left[:, j]][row]
        x[:, k] = self.nodes[k][node]
        for j in range(right.shape[1]):
            x[:, k + 1 + j] = self.nodes[k + 1 + j][right[:, j]][column]
        return x

    def _reserve(self, count: int) -> None:
        if count > self.remaining:
            raise BudgetExhausted(f"{count} evaluations wanted, {int(self.remaining)} left")

    def _pay(self, request: tuple[Tensor, ...], keys: Tensor | None) -> Tensor:
        """Evaluate in pieces of ``max_batch``; what has been paid for is recorded before anything can go wrong."""
        x = self._expand(request)
        pieces: list[Tensor] = []
        try:
            for part in x.split(self.max_batch or len(x)):
                pieces.append(self._call(part))
        finally:
            if pieces:
                values = torch.cat(pieces)
                self.num_evaluations += len(values)
                self._requests.append(request)
                self._values.append(values)
                if keys is not None:
                    self._table.insert(keys[: len(values)], values)
                self.largest = max(self.largest, float(values.max()))
        return values

    def _call(self, x: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                values = self._function(x)
        except Exception as error:
            raise EvaluationError(
                f"{self._caller}: expected `{self._argument}` to evaluate a batch of shape {tuple(x.shape)}; it raised "
                f"{type(error).__name__}: {error}. Return -inf where the density vanishes; the {self.num_evaluations} "
                "evaluations before are in `.info`."
            ) from error
        self._check(x, values)
        values = values.detach().to(dtype=self.dtype, device=self.device)
        bad = torch.isnan(values) | (values == torch.inf)
        if self._invalid is None:
            bad |= values == -torch.inf
        count = int(bad.sum())
        if count:
            if self._invalid is None:
                raise EvaluationError(
                    f"{self._caller}: expected `{self._argument}` to return finite values; got {count} that are not, "
                    f"first at {x[bad][0].tolist()}. Restrict the bases to where the function is finite."
                )
            self.num_invalid += count
            values = torch.where(bad, self._invalid, values)
        return values

    def _check(self, x: Tensor, values: object) -> None:
        """After every call: a function may go wrong for batches of one only."""
        name, batch = self._argument, len(x)
        if not isinstance(values, Tensor):
            raise TypeError(
                f"{self._caller}: expected `{name}` to return a torch.Tensor; got {type(values).__name__}. Compute with torch, "
                "or wrap the result in torch.as_tensor."
            )
        if values.shape != (batch,):
            remedy = "Sum over the last dimension." if values.dim() == 2 else "Return one value per row of the input."
            raise ValueError(
                f"{self._caller}: expected `{name}` to return shape ({batch},); got {tuple(values.shape)}. {remedy}"
            )
        if not values.dtype.is_floating_point:
            raise TypeError(
                f"{self._caller}: expected `{name}` to return floating-point values; got {values.dtype}. Convert with .to(x.dtype)."
            )


class ReversedGrid(Grid):
    """A grid function read from the last mode to the first, so that one sweep serves both directions."""

    def __init__(self, base: GridFunction) -> None:
        self._base = base
        self.mode_sizes = base.mode_sizes[::-1]

    def fibers(self, left: Tensor, right: Tensor) -> Tensor:
        return self._base.fibers(right.flip(1), left.flip(1)).permute(2, 1, 0)

    def keys(self, indices: Tensor, start: int = 0) -> Tensor:
        return self._base.keys(indices.flip(1), len(self.mode_sizes) - start - indices.shape[1])

    def reversed(self) -> GridFunction:
        return self._base
