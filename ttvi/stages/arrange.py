"""Coordinates in an order in which they follow from their neighbours, where the user's order scatters them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..geometry.exploration import Cloud
from ..geometry.ordering import better_order
from ..geometry.symmetry import Mirrored, SignedPermutation
from ..supports import Interval, Line
from .search import Fitted, LogDensityWithGradient, Search
from .training import FEW_COORDINATES

__all__ = ["Arranged", "arrange", "in_given_order", "turned"]


@dataclass(frozen=True)
class Arranged:
    """The log-density of :math:`y = x_π`. It counts no evaluations of its own.

    Attributes:
        density: of x.
        order: from x to y, a permutation.
    """

    density: LogDensityWithGradient
    order: SignedPermutation

    def __call__(self, x: Tensor) -> Tensor:
        """Values at points in this order, shape (batch, D) to (batch,)."""
        return self.density(self.order.inverse(x))

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (batch,) and gradients (batch, D)."""
        values, slopes = self.density.value_and_gradient(self.order.inverse(x))
        return values, slopes[:, self.order.permutation]


def arrange(search: Search) -> Arranged | None:
    """Go on with the coordinates in another order; None where the given one is good enough, or they are of several kinds.

    Trains, triangular charts and columns along a chain depend on the order. The user's is kept unless another has far
    less information across its cuts.
    """
    cloud, coordinates = search.cloud, search.coordinates
    plain = all(isinstance(kind, Line | Interval) for kind in coordinates.support.kinds)
    blocks = coordinates.support.blocks
    alike = len({repr(b.constraint) for b in blocks}) == 1 and all(b.constraint.event_dim == 0 for b in blocks)
    if coordinates.dim <= FEW_COORDINATES or cloud.beta < 1 or not (plain and alike):
        return None
    precision = cloud.precisions[0] if cloud.precisions is not None and len(cloud.precisions) else None
    found = better_order(cloud.points, precision)
    if found is None:
        return None
    search.notes.append(
        f"the coordinates are taken in another order: {found.information:.2g} nats of information across a cut on the average instead of {found.given:.2g}"
    )
    nothing = torch.zeros(coordinates.dim, dtype=cloud.points.dtype)
    arranged = Arranged(search.density, SignedPermutation(found.order, 1, nothing, nothing))
    search.cloud = turned(cloud, arranged.order)
    search.turn_to(arranged)
    return arranged


def in_given_order(search: Search, arranged: Arranged, fitted: Fitted) -> Fitted:
    """The fit and the population in the user's order."""
    order = arranged.order
    back = replace(order, permutation=order.permutation.argsort())
    search.turn_to(arranged.density)
    search.cloud = turned(search.cloud, back)
    return Fitted(Mirrored(fitted.density, back), fitted.ess, fitted.elbo, fitted.label, fitted.train)


def turned(cloud: Cloud, turn: SignedPermutation) -> Cloud:
    """A population and its maxima under a map that leaves their values as they are."""
    order = turn.permutation
    precisions = None if cloud.precisions is None else cloud.precisions[:, order][:, :, order]
    return replace(cloud, points=turn(cloud.points), modes=turn(cloud.modes), precisions=precisions)
