"""Couplings: some coordinates move by parameters that a network computes from the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .columns import Partition
from .conditioner import Conditioner, Features, Kind, LocalConditioner, as_vector, parse_kinds
from .elementwise import Affine, Elementwise, Shift
from .transform import Transform

__all__ = ["AdditiveCoupling", "AffineCoupling", "Coupling"]


class Coupling(Transform):
    """x_moved = f(z_moved; network(z_rest, context)), x_rest = z_rest: triangular, so both directions cost one pass.

    Where no coordinate is left to condition on (dim = 1, say) the network reads the context alone, or is a constant.

    Args:
        dim: number of coordinates.
        moved: positions that move; every second movable one by default.
        kinds: per coordinate ``"real"``, ``("interval", lower, upper)``, which is mapped onto itself,
            ``("circle", lower, upper)`` or ``("discrete", lowest, highest)``.
        loc: typical location per coordinate, subtracted before the network sees it.
        scale: typical spread per coordinate: networks and shifts work in these units.
        hidden: widths of the network's hidden layers.
        activation: ``"silu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        context_dim: number of conditioning values.
        neighbours: for each coordinate that moves, those that its own network sees beside the context; where they are left
            out, one network sees all that do not move.
        generator: source of the initial weights; a fixed seed without one.
        dtype: floating type of parameters and buffers.

    Raises:
        ValueError: a coordinate cannot move this way, or an argument does not fit.
    """

    movable: ClassVar[tuple[str, ...]] = ("real",)

    def __init__(
        self,
        dim: int,
        *,
        moved: Sequence[int] | None = None,
        kinds: Sequence[Kind] | None = None,
        loc: object = None,
        scale: object = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        context_dim: int = 0,
        neighbours: Sequence[Sequence[int]] | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        parsed = parse_kinds(kinds, dim, name)
        movable = [k for k, kind in enumerate(parsed) if kind[0] in self.movable]
        moved = movable[::2] if moved is None else [int(k) for k in moved]
        if not moved or len(set(moved)) < len(moved) or not set(moved) <= set(movable):
            raise ValueError(
                f"{name}: expected distinct positions of {' or '.join(self.movable)} coordinates to move; got {moved}. "
                f"Choose among {movable}."
            )
        described = [["real"] if kind == "real" else [kind, lower, upper] for kind, lower, upper in parsed]
        arguments = {"moved": moved, "kinds": described, "hidden": list(hidden), "activation": activation, **options}
        if neighbours is not None:
            arguments["neighbours"] = [[int(k) for k in seen] for seen in neighbours]
        locs = as_vector(loc, dim, 0.0, dtype, "loc", name)
        scales = as_vector(scale, dim, 1.0, dtype, "scale", name)
        super().__init__(dim, context_dim, {**arguments, "loc": locs.tolist(), "scale": scales.tolist()})
        rest = [k for k in range(dim) if k not in set(moved)]
        self.partition = Partition(moved, rest)
        self.elementwise = self._elementwise([parsed[k] for k in moved], locs[moved], scales[moved], **options)
        self.features = Features([parsed[k] for k in rest], locs[rest], scales[rest])
        network: dict[str, Any] = {"hidden": hidden, "activation": activation, "generator": generator, "dtype": dtype}
        size = self.features.size + self.context_dim
        if neighbours is None or not rest:
            self.conditioner: nn.Module = Conditioner(size, len(moved) * self.elementwise.num_parameters, **network)
        else:
            inputs = self._inputs(arguments["neighbours"], rest)
            self.conditioner = LocalConditioner(inputs, size, self.elementwise.num_parameters, **network)

    def _inputs(self, neighbours: list[list[int]], rest: list[int]) -> list[list[int]]:
        """The features of those coordinates, and the context."""
        if len(neighbours) != self.elementwise.size or not {k for seen in neighbours for k in seen} <= set(rest):
            raise ValueError(
                f"{type(self).__name__}: expected `neighbours` of {self.elementwise.size} coordinates among those that do not "
                f"move; got {neighbours}. Choose among {rest}."
            )
        context = range(self.features.size, self.features.size + self.context_dim)
        owned: dict[int, list[int]] = {k: [] for k in rest}
        for feature, owner in enumerate(self.features.owner):
            owned[rest[owner]].append(feature)
        return [[*(feature for k in seen for feature in owned[k]), *context] for seen in neighbours]

    @abstractmethod
    def _elementwise(
        self, kinds: list[tuple[str, float, float]], loc: Tensor, scale: Tensor, **options: Any
    ) -> Elementwise:
        """The map of the moved columns."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, rest, parameters = self._split(z, context)
        moved, log_det = self.elementwise.forward(moved, parameters)
        return self.partition.join(moved, rest), log_det

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, rest, parameters = self._split(x, context)
        moved, log_det = self.elementwise.inverse(moved, parameters)
        return self.partition.join(moved, rest), log_det

    def carry(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As in `Transform`, but from the derivatives of the pass forward: the Jacobian is triangular by blocks."""
        with torch.enable_grad():
            self._check(z, context)
            moved, rest = (part if part.requires_grad else part.requires_grad_() for part in self.partition.split(z))
            parameters = self.conditioner(self.features(rest), context if self.context_dim else None)
            image, log_slope = self.elementwise.columns(moved, parameters)
            log_det = log_slope.sum(-1)
            pulled, kept = self.partition.split(score)
            if self.elementwise.bends:
                pulled = pulled - _gradient([log_det], moved, [torch.ones_like(log_det)])
            pulled = pulled / log_slope.detach().exp()
            kept = kept - _gradient([image, log_det], rest, [pulled, torch.ones_like(log_det)])
        return self.partition.join(image, rest), log_det, self.partition.join(pulled, kept)

    def _split(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Moving columns, resting columns and the parameters that these give."""
        self._check(z, context)
        moved, rest = self.partition.split(z)
        return moved, rest, self.conditioner.forward(self.features.forward(rest), context if self.context_dim else None)


def _gradient(values: list[Tensor], point: Tensor, cotangents: list[Tensor]) -> Tensor:
    """Of values in a point, with the graph kept; zero where nothing depends on it."""
    pairs = [(value, cotangent) for value, cotangent in zip(values, cotangents) if value.requires_grad]
    if not pairs or not point.numel():
        return torch.zeros_like(point)
    values, cotangents = ([pair[k] for pair in pairs] for k in (0, 1))
    (gradient,) = torch.autograd.grad(values, point, cotangents, retain_graph=True, allow_unused=True)
    return torch.zeros_like(point) if gradient is None else gradient


class AdditiveCoupling(Coupling):
    """Shifts: x_moved = z_moved + scale·t(z_rest), of determinant one. Arguments as in `Coupling`.

    References:
        Dinh, Krueger, Bengio: NICE: non-linear independent components estimation (2014)

    >>> AdditiveCoupling(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[0].tolist()
    [0.3, -0.4]
    """

    def _elementwise(
        self, kinds: list[tuple[str, float, float]], loc: Tensor, scale: Tensor, **options: Any
    ) -> Elementwise:
        return Shift(loc, scale)


class AffineCoupling(Coupling):
    """Shifts and stretches: x_moved = loc + (z_moved − loc)·exp s(z_rest) + scale·t(z_rest). Arguments as in `Coupling`.

    References:
        Dinh, Sohl-Dickstein, Bengio: Density estimation using Real NVP (2016)

    >>> AffineCoupling(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[1].item()
    0.0
    """

    def _elementwise(
        self, kinds: list[tuple[str, float, float]], loc: Tensor, scale: Tensor, **options: Any
    ) -> Elementwise:
        return Affine(loc, scale)
