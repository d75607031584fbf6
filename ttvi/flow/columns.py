"""Taking some columns of a tensor apart from the others and putting them back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Partition"]


class Partition(nn.Module):
    """Columns in two groups.

    Columns that alternate, singly or in blocks, or lie side by side, are taken apart by views; others are gathered.

    Args:
        first: positions of one group, in the order wanted.
        second: positions of the other; the two hold every position once.

    >>> Partition([2, 0], [1]).split(torch.tensor([0.0, 1.0, 2.0]))
    (tensor([2., 0.]), tensor([1.]))
    """

    order: Tensor
    restore: Tensor

    def __init__(self, first: Sequence[int], second: Sequence[int]) -> None:
        super().__init__()
        self.sizes = [len(first), len(second)]
        order = [*first, *second]
        dim = len(order)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("restore", torch.tensor(order).argsort(), persistent=False)
        self._in_order = order == list(range(dim))
        self._swapped = [*second, *first] == list(range(dim))
        # Which group has the even blocks and how long these are, where blocks alternate; length 0 elsewhere.
        self._even, self._block = _blocks([list(first), list(second)])
        self._pairs = dim // (2 * self._block) if self._block else 0

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both groups of columns of ``z``."""
        if self._block == 1:
            pair = z.reshape(*z.shape[:-1], self._pairs, 2).unbind(-1)
            return pair[self._even], pair[1 - self._even]
        if self._block:
            pair = z.reshape(*z.shape[:-1], self._pairs, 2, self._block).unbind(-2)
            return pair[self._even].flatten(-2), pair[1 - self._even].flatten(-2)
        if self._swapped:
            second, first = z.split(self.sizes[::-1], -1)
            return first, second
        first, second = (z if self._in_order else z.index_select(-1, self.order)).split(self.sizes, -1)
        return first, second

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self._block:
            pair = [first, second] if self._even == 0 else [second, first]
            if self._block == 1:
                return torch.stack(pair, -1).flatten(-2)
            shape = (*first.shape[:-1], self._pairs, self._block)
            return torch.stack([half.reshape(shape) for half in pair], -2).flatten(-3)
        if self._swapped:
            return torch.cat([second, first], -1)
        joined = torch.cat([first, second], -1)
        return joined if self._in_order else joined.index_select(-1, self.restore)


def _blocks(groups: list[list[int]]) -> tuple[int, int]:
    """The group of the even blocks and the length of the blocks, if equal ones of the two alternate; else length 0.

    >>> _blocks([[2, 3, 6, 7], [0, 1, 4, 5]])
    (1, 2)
    """
    half = len(groups[0])
    if half == len(groups[1]) > 0:
        even = int(groups[0][0] != 0)
        for block in range(1, half):  # one block each is side by side
            if half % block == 0:
                first = [k for k in range(2 * half) if k // block % 2 == 0]
                if groups[even] == first and groups[1 - even] == sorted(set(range(2 * half)) - set(first)):
                    return even, block
        if half == 1:
            return even, 1
    return 0, 0
