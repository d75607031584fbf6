"""Taking some columns of a tensor apart from the others and putting them back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Partition"]


class Partition(nn.Module):
    """Columns in two groups.

    Columns that alternate, or lie side by side, are views and cost nothing to take apart; others are gathered.

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
        # The group that holds the even positions, where they alternate; -1 elsewhere.
        alternating = [list(range(0, dim, 2)), list(range(1, dim, 2))]
        groups = [list(first), list(second)]
        self._even = -1 if dim % 2 or groups not in (alternating, alternating[::-1]) else int(groups != alternating)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Both groups of columns of ``z``."""
        if self._even >= 0:
            pair = z.unflatten(-1, (len(self.order) // 2, 2)).unbind(-1)
            return pair[self._even], pair[1 - self._even]
        if self._swapped:
            second, first = z.split(self.sizes[::-1], -1)
            return first, second
        first, second = (z if self._in_order else z.index_select(-1, self.order)).split(self.sizes, -1)
        return first, second

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """The inverse of `split`."""
        if self._even >= 0:
            return torch.stack([first, second] if self._even == 0 else [second, first], -1).flatten(-2)
        if self._swapped:
            return torch.cat([second, first], -1)
        joined = torch.cat([first, second], -1)
        return joined if self._in_order else joined.index_select(-1, self.restore)
