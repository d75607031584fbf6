"""Symmetries that map one maximum of a density onto another: signed permutations of the coordinates, found and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..records import register
from ..tt.arguments import check_positions
from .composed import Composed

__all__ = ["Mirrored", "SignedPermutation", "candidates"]

ALIKE = 2e-3  # of the scale: places that may be images of each other
BRANCHES = 8  # images of one place that are tried
DEPTH = 3  # places that are told from those like them
CLOSE = 1e-3  # of the distance of two maxima: how near the image of the one must come to the other


@dataclass(frozen=True)
class SignedPermutation:
    r"""The map :math:`y_i = b_i + s\,(x_{\pi(i)} - a_{\pi(i)})` of vectors.

    Attributes:
        permutation: π, shape (D,).
        sign: s, 1 or -1.
        source: a, shape (D,).
        image: b, shape (D,).

    >>> swap = SignedPermutation(torch.tensor([1, 0]), -1, torch.zeros(2), torch.zeros(2))
    >>> swap(torch.tensor([3.0, 5.0])).tolist(), swap.inverse(torch.tensor([-5.0, -3.0])).tolist(), swap.is_involution
    ([-5.0, -3.0], [3.0, 5.0], True)
    """

    permutation: Tensor
    sign: int
    source: Tensor
    image: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The image.

        Args:
            x: shape (..., D).
        """
        return self.image.to(x) + self.sign * (x - self.source.to(x))[..., self.permutation.to(x.device)]

    def inverse(self, y: Tensor) -> Tensor:
        """The point with this image.

        Args:
            y: shape (..., D).
        """
        return self.source.to(y) + self.sign * (y - self.image.to(y))[..., self.permutation.argsort().to(y.device)]

    @property
    def is_involution(self) -> bool:
        """Whether it is its own inverse."""
        back = self.permutation[self.permutation]
        return torch.equal(back, torch.arange(len(back))) and torch.equal(self.source, self.image)

    def __str__(self) -> str:
        moved = int((self.permutation != torch.arange(len(self.permutation))).sum())
        places = f"{moved} coordinates change places" if moved else "every coordinate stays in its place"
        return f"{places}, signs {'turn round' if self.sign < 0 else 'stay'}"


@register("Mirrored")
class Mirrored(Composed):
    """The density of the images of draws, whose volumes are the same.

    Args:
        base: of the draws, a normalised density.
        symmetry: the map.
    """

    def __init__(self, base: Any, symmetry: SignedPermutation) -> None:
        self.base, self.symmetry = base, symmetry
        super().__init__(base.event_shape)

    @property
    def _first(self) -> Any:
        return self.base

    def __repr__(self) -> str:
        return f"Mirrored({self.base!r})"

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density, shape (..., D) to (...)."""
        return self.base.log_prob(self.symmetry.inverse(value))

    def sample(self, sample_shape: Sequence[int] = (), **options: Any) -> Tensor:
        """Exact draws, shape ``(*sample_shape, D)``; the options are those of the base."""
        return self.symmetry(self.base.sample(sample_shape, **options))

    def rsample(self, sample_shape: Sequence[int] = (), **options: Any) -> Tensor:
        """Draws with gradients in the parameters of the base, shape ``(*sample_shape, D)``."""
        return self.symmetry(self.base.rsample(sample_shape, **options))

    def marginal(self, dims: Sequence[int]) -> Mirrored:
        """The exact marginal of some coordinates, in their original order.

        Args:
            dims: their positions.

        Raises:
            ValueError: the base has none.
        """
        kept = sorted(check_positions(list(dims), self.event_shape[0], "marginal"))
        return Mirrored(self.base.marginal(self._sources(kept)), self._among(kept))

    def condition(self, values: Mapping[int, Any]) -> Mirrored:
        """The exact conditional of the other coordinates.

        Args:
            values: position to number.

        Raises:
            ValueError: the base has none.
        """
        fixed = check_positions(list(values), self.event_shape[0], "condition")
        y = self.symmetry.image.clone()
        y[list(fixed)] = torch.stack([torch.as_tensor(value, dtype=y.dtype) for value in values.values()])
        x = self.symmetry.inverse(y)
        kept = [k for k in range(self.event_shape[0]) if k not in fixed]
        conditional = self.base.condition({k: float(x[k]) for k in self._sources(fixed)})
        return Mirrored(conditional, self._among(kept))

    def _sources(self, places: Sequence[int]) -> list[int]:
        """The coordinates that come to some places, ascending."""
        return sorted(self.symmetry.permutation[list(places)].tolist())

    def _among(self, kept: Sequence[int]) -> SignedPermutation:
        """The map of the coordinates that come to some places alone."""
        places, sources = list(kept), self._sources(kept)
        rank = self.symmetry.permutation[places].argsort().argsort()
        return SignedPermutation(rank, self.symmetry.sign, self.symmetry.source[sources], self.symmetry.image[places])

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        s = self.symmetry
        tensors = {"permutation": s.permutation, "source": s.source, "image": s.image}
        return {"sign": s.sign}, tensors, {"base": self.base}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> Mirrored:
        symmetry = SignedPermutation(tensors["permutation"], int(spec["sign"]), tensors["source"], tensors["image"])
        return cls(children["base"], symmetry)


def candidates(modes: Tensor, precisions: Tensor, middle: Tensor, alike: Tensor) -> list[SignedPermutation]:
    """Involutions that may be symmetries: each maps a maximum onto another one, and its curvature onto that of the other.

    A permutation is matched by what it leaves as it is: heights, curvatures and what follows from both, place by place;
    places that cannot be told from each other, since a maximum has symmetries of its own, are told by their relation to one
    of them, every image of which is tried.

    Args:
        modes: two maxima, shape (2, m).
        precisions: negative Hessians there, shape (2, m, m).
        middle: of every coordinate's range, about which signs turn, shape (m,).
        alike: a label of every coordinate; only coordinates of one label change places, shape (m,).

    Returns:
        What remains to be verified.

    >>> modes = torch.tensor([[1.0, 2.0], [-2.0, -1.0]]).double()
    >>> curvature = torch.tensor([[3.0, 1.0], [1.0, 5.0]]).double()
    >>> precisions = torch.stack([curvature, curvature.flip(0, 1)])
    >>> [str(s) for s in candidates(modes, precisions, torch.zeros(2).double(), torch.zeros(2))]
    ['2 coordinates change places, signs turn round']
    """
    one, two = modes - middle
    stays = torch.arange(modes.shape[1])
    centre = 0.5 * (modes[0] + modes[1])
    found = [SignedPermutation(stays, -1, centre, centre)]
    for sign in (1, -1):
        features = [
            torch.cat([alike[:, None].to(u), _invariants(u, h)], 1)
            for u, h in zip((one, sign * two), precisions, strict=True)
        ]
        for permutation in _matched(features[0], features[1], precisions, DEPTH):
            # The image of the first at place i is its own number permutation[i].
            found.append(SignedPermutation(permutation, sign, middle, middle))
    scale = float((modes[0] - modes[1]).norm())
    fits = [s for s in found if s.is_involution and float((s(modes[0]) - modes[1]).norm()) < CLOSE * scale]
    return [s for s in fits if _close(precisions[0][s.permutation][:, s.permutation], precisions[1])]


def _close(left: Tensor, right: Tensor) -> bool:
    return float((left - right).norm()) < 10 * ALIKE * float(right.norm())


def _invariants(u: Tensor, precision: Tensor) -> Tensor:
    """What a permutation of the places takes along, place by place, shape (m, f)."""
    covariance = torch.linalg.inv(precision)
    squares = covariance.square()
    columns = [
        u, precision.diagonal(), covariance.diagonal(), precision.sum(1), covariance.sum(1), covariance @ u, squares.sum(1),
        squares @ covariance.diagonal(),
    ]  # fmt: skip
    return torch.stack(columns, 1)


def _matched(one: Tensor, two: Tensor, precisions: Tensor, depth: int) -> list[Tensor]:
    """Permutations π with the features of place π(i) of the first like those of place i of the second."""
    scale = torch.cat([one, two]).std(0).clamp_min(1e-9 * (1 + one.abs().amax(0)))
    distance = torch.cdist(two / scale, one / scale)  # (places of the second, of the first)
    rows, columns = linear_sum_assignment(distance.numpy())
    if float(distance[rows, columns].max()) > ALIKE:
        return []
    like = distance < ALIKE
    several = like.sum(1)
    if depth == 0 or int(several.max()) == 1:
        return [torch.from_numpy(columns)]
    place = int(several.argmax())
    found: list[Tensor] = []
    for image in like[place].nonzero()[:BRANCHES, 0].tolist():
        told = [
            torch.cat(
                [features, torch.linalg.inv(h)[:, [at]], h[:, [at]], torch.eye(len(h), dtype=h.dtype)[:, [at]]], 1
            )
            for features, h, at in ((one, precisions[0], image), (two, precisions[1], place))
        ]
        found += _matched(told[0], told[1], precisions, depth - 1)
    return found
