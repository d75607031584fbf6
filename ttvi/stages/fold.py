"""A density that is its own image: one half of it is fitted, the answer is the even mixture of that and its image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import BudgetExhausted
from ..evaluation import Evaluations
from ..geometry.atlas import Atlas
from ..geometry.curvature_rank import cut_information
from ..geometry.exploration import Cloud
from ..geometry.symmetry import Mirrored, SignedPermutation, candidates
from ..supports import Interval, Line
from .arrange import turned
from .search import Fitted, Search
from .training import FEW_COORDINATES

__all__ = ["Half", "fold", "unfold"]

PARTNERS = 4  # maxima that may be the image of the highest one
AS_HIGH = 1e-3  # nats
THE_SAME = 1e-6  # of the log-density of a point and of its image
CHECKED = 64  # points of the population
BARRIER = 4.0  # nats, between a maximum and its image
APART = 1e-3  # 4 r (1 - r) on the average over the population, at most
FREEDOM = 4.0  # degrees of, of the responsibilities


@dataclass(frozen=True)
class Half:
    r"""The log-density :math:`\log \tilde p(x) + \log 2 r(x)` with responsibilities :math:`r(x) + r(Rx) = 1`.

    Of a density that a symmetry R maps onto itself it is one half, counted twice: as much mass, and half as many modes. It
    counts no evaluations of its own.

    Attributes:
        account: of the whole density.
        symmetry: R.
        centre: a maximum of the half, shape (D,).
        factor: K with KᵀK its negative Hessian, shape (D, D).
    """

    account: Evaluations
    symmetry: SignedPermutation
    centre: Tensor
    factor: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Values, shape (batch, D) to (batch,)."""
        return self.account(x) + math.log(2) + self.log_share(x)

    def other(self) -> Half:
        """The other half."""
        return replace(self, centre=self.symmetry(self.centre), factor=self.factor[:, self.symmetry.permutation])

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (batch,) and gradients (batch, D)."""
        values, slopes = self.account.value_and_gradient(x)
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            share = self.log_share(leaf)
            (more,) = torch.autograd.grad(share.sum(), leaf)
        return values + math.log(2) + share.detach(), slopes + more

    def log_share(self, x: Tensor) -> Tensor:
        """log r, shape (..., D) to (...)."""
        here, there = self._spread(x), self._spread(self.symmetry(x))
        return here - torch.logaddexp(here, there)

    def _spread(self, x: Tensor) -> Tensor:
        """A Student density around the maximum, but for its constant."""
        distance = ((x - self.centre.to(x)) @ self.factor.to(x).T).square().sum(-1)
        return -0.5 * (FREEDOM + x.shape[-1]) * torch.log1p(distance / FREEDOM)


@dataclass(frozen=True)
class _Folded:
    """What it takes to unfold.

    Attributes:
        half: the density that was fitted.
        turn: the symmetry, of ``t``.
        cloud: as it was.
    """

    half: Half
    turn: SignedPermutation
    cloud: Cloud


def fold(search: Search) -> _Folded | None:
    """Go on with one half of a density that is its own image, where that parts its modes; None where there is no such symmetry.

    A train of many coordinates then needs the rank of one mode instead of two, and both have the same share by construction.
    Where modes touch, the cut between them ties all coordinates together, and a train of both is the better one.
    """
    cloud, coordinates = search.cloud, search.coordinates
    kinds = coordinates.support.kinds
    plain = all(isinstance(k, Interval) or (isinstance(k, Line) and not k.logarithmic) for k in kinds)
    single = all(block.constraint.event_dim == 0 for block in coordinates.support.blocks)
    if cloud.precisions is None or not len(cloud.modes) or cloud.beta < 1 or not (plain and single):
        return None
    if coordinates.dim <= FEW_COORDINATES:  # a train holds both halves
        return None
    with search.account.stage("exploration"):
        try:
            turn = _symmetry(search)
        except BudgetExhausted:
            return None
    if turn is None:
        return None
    lower, length = coordinates.bounds
    symmetry = replace(turn, source=lower + length * turn.source, image=lower + length * turn.image)
    centre = lower + length * cloud.modes[0]
    factor = torch.linalg.cholesky(cloud.precisions[0]).mT / length
    half = Half(search.account, symmetry, centre, factor)
    shares = half.log_share(lower + length * cloud.points).exp()
    if float((4 * shares * (1 - shares)).mean()) > APART:
        return None
    search.notes.append(f"the density is its own image ({turn}): one half of it is fitted")
    search.cloud = _within(search, half, turn, shares)
    # Where coordinates change places, one half may have its lesser maxima along the order of the coordinates, and the other across.
    if cut_information(turn(search.cloud.points)) < cut_information(search.cloud.points):
        half, search.cloud = half.other(), turned(search.cloud, turn)
    search.turn_to(half)
    search.whole = False
    return _Folded(half, turn, cloud)


def _within(search: Search, half: Half, turn: SignedPermutation, shares: Tensor) -> Cloud:
    """The population turned into a half, in which its points have these shares, and the maxima of that."""
    cloud, (lower, length) = search.cloud, search.coordinates.bounds
    assert cloud.precisions is not None
    there = torch.rand(len(shares), generator=search.generator, dtype=shares.dtype) > shares
    points = torch.where(there[:, None], turn(cloud.points), cloud.points)
    mine = half.log_share(lower + length * cloud.modes)
    kept = mine > math.log(0.5)
    return replace(
        cloud, points=points, values=cloud.values + math.log(2) + half.log_share(lower + length * points),
        modes=cloud.modes[kept], mode_values=(cloud.mode_values + math.log(2) + mine)[kept],
        precisions=cloud.precisions[kept],
    )  # fmt: skip


def unfold(search: Search, folded: _Folded, fitted: Fitted) -> Fitted:
    """The even mixture of a half and its image, and the population of the whole."""
    cloud, half = search.cloud, folded.half
    search.turn_to(search.account)
    search.whole = True
    lower, length = search.coordinates.bounds
    values = cloud.values - math.log(2) - half.log_share(lower + length * cloud.points)
    there = torch.rand(len(values), generator=search.generator, dtype=values.dtype) > 0.5
    points = torch.where(there[:, None], folded.turn(cloud.points), cloud.points)
    search.cloud = replace(folded.cloud, points=points, values=values, beta=cloud.beta)
    whole = Atlas([fitted.density, Mirrored(fitted.density, half.symmetry)], torch.zeros(2, dtype=torch.float64))
    return Fitted(whole, fitted.ess, fitted.elbo, f"{fitted.label}, and its image", fitted.train)


def _symmetry(search: Search) -> SignedPermutation | None:
    """Of ``t``, verified, with a barrier between the highest maximum and its image."""
    cloud, coordinates = search.cloud, search.coordinates
    assert cloud.precisions is not None
    middle = torch.where(coordinates.interval, 0.5, 0.0).to(cloud.modes)
    ends = list(zip(*coordinates.bounds.tolist(), coordinates.interval.tolist(), strict=True))
    alike = torch.tensor([ends.index(end) for end in ends])
    stays = torch.arange(coordinates.dim)
    found = [SignedPermutation(stays, -1, middle, middle)]
    level = cloud.mode_values[0]
    partners = [
        k for k in range(1, len(cloud.modes)) if float(level - cloud.mode_values[k]) < AS_HIGH * (1 + abs(level))
    ]
    for k in partners[:PARTNERS]:
        found += candidates(cloud.modes[[0, k]], cloud.precisions[[0, k]], middle, alike)
    points = cloud.points[:CHECKED]
    values = search.target(points)
    for symmetry in found:
        image = symmetry(cloud.modes[0])
        if not bool(torch.isfinite(image).all()) or float((image - cloud.modes[0]).norm()) < 1e-6:
            continue
        gap = (search.target(symmetry(points)) - values).abs() / (1 + values.abs())
        if not float(gap.max()) < THE_SAME:
            continue
        at = torch.linspace(0.1, 0.9, 9, dtype=points.dtype)[:, None]
        path = search.target(cloud.modes[0] + at * (image - cloud.modes[0]))
        if float(path.min()) < float(level) - BARRIER:
            return symmetry
    return None
