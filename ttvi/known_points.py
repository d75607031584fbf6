"""Points with their values, found again by the bits of their coordinates; every operation works on whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

from .calling import Answer
from .tt.cache import HashTable

__all__ = ["KnownPoints"]

_MIX = 0x5851F42D4C957F2D  # an odd multiplier whose bits look random (Knuth's MMIX generator)


class _Rows:
    """A tensor that grows at its end, by doubling."""

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device) -> None:
        self._data = torch.empty(1024, *shape, dtype=dtype, device=device)
        self.count = 0

    def extend(self, rows: Tensor) -> None:
        total = self.count + len(rows)
        if total > len(self._data):
            grown = self._data.new_empty(max(total, 2 * len(self._data)), *self._data.shape[1:])
            grown[: self.count] = self.all
            self._data = grown
        self._data[self.count : total] = rows
        self.count = total

    @property
    def all(self) -> Tensor:
        return self._data[: self.count]


class _Chunks:
    """Rows that are seldom read: kept as they came, put together when they are."""

    def __init__(self, dim: int, device: torch.device) -> None:
        self._chunks = [torch.zeros(0, dim, dtype=torch.float64, device=device)]
        self.count = 0

    def extend(self, rows: Tensor) -> None:
        self._chunks.append(rows.clone())
        self.count += len(rows)

    @property
    def all(self) -> Tensor:
        if len(self._chunks) > 1:
            self._chunks = [torch.cat(self._chunks)]
        return self._chunks[0]


class KnownPoints:
    """The store behind a fit's evaluations.

    Entries have a value as the function returned it, whether it raised, how far the fit has asked for them (0: only known
    from a log, 1: value, 2: gradient too), and the row of their gradient, or -1.

    Args:
        dim: number of entries of a point.
        device: where everything lies.
    """

    def __init__(self, dim: int, device: torch.device) -> None:
        fixed = torch.Generator().manual_seed(0x5EED)
        top = torch.iinfo(torch.int64)
        self._salt = torch.randint(top.min, top.max, (2, dim), generator=fixed).to(device)
        self._salt[1] |= 1
        self._table = HashTable(torch.int64, device)
        self._points = _Chunks(dim, device)
        self._values = _Rows(dtype=torch.float64, device=device)
        self._failed = _Rows(dtype=torch.bool, device=device)
        self._asked = _Rows(dtype=torch.uint8, device=device)
        self._gradient_rows = _Rows(dtype=torch.int64, device=device)
        self._gradients = _Rows(dim, dtype=torch.float64, device=device)

    def __len__(self) -> int:
        return self._points.count

    def keys(self, x: Tensor) -> Tensor:
        """A 64-bit key per point, from its bits: of a million points two coincide with probability 3e-8.

        Folding the high half of each word onto the low half before a multiplication lets every bit of a float64, whose
        low bits are often all zero, reach the high bits of the product.
        """
        words = x.contiguous().view(torch.int64) ^ self._salt[0]
        words ^= words >> 32
        words *= _MIX
        words ^= words >> 29
        words *= self._salt[1]
        keys = words.sum(1)
        keys ^= keys >> 31
        return torch.where(keys == 0, 1, keys)  # zero marks a free slot of the table

    def find(self, keys: Tensor) -> Tensor:
        """The entry of each key, or -1."""
        entries, present = self._table.find(keys)
        return torch.where(present, entries, -1)

    def add(self, keys: Tensor, entries: Tensor, x: Tensor, answer: Answer) -> Tensor:
        """Store answers to distinct points; where a value is known it stays, and only the gradient is added.

        Args:
            keys: their keys.
            entries: what :meth:`find` said of them.
            x: the points.
            answer: what came of them.

        Returns:
            Their entries.
        """
        new: Tensor | slice = entries < 0
        count = int((entries < 0).sum())
        entries = entries.clone()
        if count == len(x):
            new = slice(None)  # the usual case, without copies
        if count:
            entries[new] = torch.arange(len(self), len(self) + count, device=x.device)
            self._table.insert(keys[new], entries[new])
            self._points.extend(x[new])
            self._values.extend(answer.values[new])
            self._failed.extend(answer.failed[new])
            self._asked.extend(torch.zeros(count, dtype=torch.uint8, device=x.device))
            self._gradient_rows.extend(torch.full((count,), -1, device=x.device))
        if answer.gradients is not None:
            fresh = self._gradient_rows.all[entries] < 0
            start = self._gradients.count
            self._gradients.extend(answer.gradients[fresh])
            self._gradient_rows.all[entries[fresh]] = torch.arange(start, self._gradients.count, device=x.device)
        return entries

    def missing(self, entries: Tensor, gradient: bool) -> Tensor:
        """Which of the entries of :meth:`find` cannot be answered."""
        unknown = entries < 0
        if gradient and self._gradient_rows.count:
            unknown = unknown | (self._gradient_rows.all[entries.clamp(min=0)] < 0)
        return unknown

    def unasked(self, entries: Tensor, level: int) -> Tensor:
        """Which of the entries of :meth:`find` the fit has not asked for to this level."""
        if not len(self):
            return entries < 0
        return (entries < 0) | (self._asked.all[entries.clamp(min=0)] < level)

    def ask(self, entries: Tensor, level: int) -> Tensor:
        """Mark entries as asked for; returns those asked for the first time, in order."""
        first = entries[self._asked.all[entries] == 0]
        self._asked.all[entries] = level
        return first

    def values(self, entries: Tensor) -> Tensor:
        """Values as the function returned them."""
        return self._values.all[entries]

    def failed(self, entries: Tensor) -> Tensor:
        """Where the function raised."""
        return self._failed.all[entries]

    def gradients(self, entries: Tensor) -> Tensor:
        """Gradients of entries that have one."""
        return self._gradients.all[self._gradient_rows.all[entries]]

    def points(self, entries: Tensor) -> Tensor:
        """The points themselves."""
        return self._points.all[entries]
