"""Many small parameters as one vector: an optimiser, a norm, a copy then cost one operation each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Flat"]


class Flat:
    """Parameters whose storage lies in one vector per type and device, as long as this holds them.

    Args:
        parameters: leaves; they keep their identity and become views.

    Attributes:
        vectors: the values of all of them, and in ``grad`` their gradients.

    >>> parameter = nn.Parameter(torch.ones(2, 2))
    >>> flat = Flat([parameter])
    >>> flat.differentiate(3 * parameter.sum()).item()
    6.0
    >>> with torch.no_grad():
    ...     _ = flat.vectors[0].sub_(flat.vectors[0].grad)
    >>> parameter[0].tolist()
    [-2.0, -2.0]
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self._groups = list(groups.values())
        self.vectors = [torch.cat([p.detach().flatten() for p in group]) for group in self._groups]
        for group, vector in zip(self._groups, self.vectors, strict=True):
            sizes = [parameter.numel() for parameter in group]
            for parameter, part in zip(group, vector.split(sizes), strict=True):
                parameter.data = part.view_as(parameter)

    def differentiate(self, value: Tensor) -> Tensor:
        """Put the gradients of ``value`` into the vectors; return their joint norm, in double precision."""
        everything = [parameter for group in self._groups for parameter in group]
        gradients = iter(torch.autograd.grad(value, everything, materialize_grads=True))
        squares = torch.zeros((), dtype=torch.float64, device=value.device)
        for group, vector in zip(self._groups, self.vectors, strict=True):
            vector.grad = torch.cat([next(gradients).flatten() for _ in group])
            squares = squares + torch.linalg.vector_norm(vector.grad).double().square()
        return squares.sqrt()

    def shrink(self, factor: float) -> None:
        """Multiply the gradients."""
        for vector in self.vectors:
            if vector.grad is not None:
                vector.grad.mul_(factor)

    def release(self) -> None:
        """Give every parameter storage of its own again."""
        for group in self._groups:
            for parameter in group:
                parameter.data = parameter.data.clone()
