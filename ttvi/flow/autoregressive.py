"""Autoregressive transforms: each coordinate moves by parameters computed from those before it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .columns import Partition
from .conditioner import ACTIVATIONS, Features, Kind, Linear, as_vector, parse_kinds, seeded_generator
from .elementwise import Affine, Elementwise
from .spline import Spline
from .transform import Transform

__all__ = ["Autoregressive", "InverseAutoregressive", "MaskedAutoregressive", "MaskedConditioner"]


class MaskedConditioner(nn.Module):
    """A perceptron whose masks let each output see only the inputs before its own rank.

    Args:
        ranks: rank of each input; the context has rank −1 and is seen by all.
        output_ranks: rank of each output; it sees inputs of strictly lower rank.
        hidden: widths of the hidden layers.
        activation: as in `Conditioner`.
        generator: source of the initial weights.
        dtype: floating type.

    References:
        Germain, Gregor, Murray, Larochelle: MADE: masked autoencoder for distribution estimation (2015)
    """

    def __init__(
        self,
        ranks: Tensor,
        output_ranks: Tensor,
        *,
        hidden: Sequence[int],
        activation: str,
        generator: torch.Generator | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        generator = seeded_generator(generator)
        # A unit of degree r sees inputs of rank <= r; the degrees in use are spread evenly over the units.
        useful = ranks[ranks < output_ranks.max()].unique()
        useful = useful if len(useful) else torch.tensor([-1])
        degrees = [ranks]
        for width in hidden:
            degrees.append(useful[(torch.arange(width) * len(useful)) // max(width, 1)])
        pairs = list(zip(degrees, degrees[1:]))
        self.layers = nn.ModuleList(Linear(len(a), len(b), generator=generator, dtype=dtype) for a, b in pairs)
        self.last = Linear(len(degrees[-1]), len(output_ranks), generator=None, dtype=dtype)
        for i, (a, b) in enumerate(pairs):
            self.register_buffer(f"mask_{i}", (b[:, None] >= a).to(dtype), persistent=False)
        last = (output_ranks[:, None] > degrees[-1]).to(dtype)
        self.register_buffer("mask_last", last, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Parameters of shape ``(..., outputs)``."""
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Linear)
            features = self.activation(F.linear(features, layer.weight * self.get_buffer(f"mask_{i}"), layer.bias))
        return F.linear(features, self.last.weight * self.get_buffer("mask_last"), self.last.bias)


class Autoregressive(Transform):
    """One pass of the network gives the parameters of every coordinate, from its predecessors and the context.

    One direction costs one pass, the other as many as coordinates move.

    Args:
        dim: number of coordinates.
        order: positions from the first in the chain to the last; as they come by default. Coordinates that do not move
            are put first, so that all others see them.
        map: ``"affine"`` or ``"spline"``; intervals and circles need the latter and stay otherwise.
        kinds: as in `Coupling`.
        loc: typical location per coordinate.
        scale: typical spread per coordinate.
        hidden: widths of the hidden layers.
        activation: ``"silu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        context_dim: number of conditioning values.
        bins: pieces of each spline.
        bound: half-width of the splines' boxes, in units of ``scale``.
        generator: source of the initial weights; a fixed seed without one.
        dtype: floating type of parameters and buffers.

    Raises:
        ValueError: nothing can move, or an argument does not fit.
    """

    def __init__(
        self,
        dim: int,
        *,
        order: Sequence[int] | None = None,
        map: str = "affine",
        kinds: Sequence[Kind] | None = None,
        loc: object = None,
        scale: object = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        context_dim: int = 0,
        bins: int = 8,
        bound: float = 5.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        name = type(self).__name__
        parsed = parse_kinds(kinds, dim, name)
        order = list(range(dim)) if order is None else [int(k) for k in order]
        movable = {"affine": ("real",), "spline": ("real", "interval", "circle")}.get(map, ())
        moved = [k for k in order if 0 <= k < dim and parsed[k][0] in movable]
        if sorted(order) != list(range(dim)) or not moved or activation not in ACTIVATIONS:
            raise ValueError(
                f"{name}: expected an order of 0, ..., {dim - 1}, a map 'affine' or 'spline' that moves some coordinate "
                f"and an activation among {', '.join(sorted(ACTIVATIONS))}; got {order}, {map!r}, {activation!r}. "
                "Leave the transform out where nothing can move."
            )
        locs = as_vector(loc, dim, 0.0, dtype, "loc", name)
        scales = as_vector(scale, dim, 1.0, dtype, "scale", name)
        described = [["real"] if kind == "real" else [kind, lower, upper] for kind, lower, upper in parsed]
        arguments: dict[str, Any] = {"order": order, "map": map, "kinds": described, "hidden": list(hidden)}
        arguments |= {"loc": locs.tolist(), "scale": scales.tolist(), "activation": activation}
        super().__init__(dim, context_dim, {**arguments, "bins": bins, "bound": bound})
        chain = [k for k in order if k not in set(moved)] + moved
        self.num_moved = len(moved)
        self.partition = Partition(chain[: dim - self.num_moved], moved)
        self.elementwise: Elementwise = (
            Affine(locs[moved], scales[moved])
            if map == "affine"
            else Spline([parsed[k] for k in moved], locs[moved], scales[moved], bins=bins, bound=bound)
        )
        self.features = Features([parsed[k] for k in chain], locs[chain], scales[chain])
        ranks = torch.tensor([*self.features.owner, *[-1] * self.context_dim], dtype=torch.long)
        self.conditioner = MaskedConditioner(
            ranks,
            self.elementwise.owners() + (dim - self.num_moved),
            hidden=hidden,
            activation=activation,
            generator=generator,
            dtype=dtype,
        )

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    def _condition(self, chain: Tensor, context: Tensor | None) -> Tensor:
        """Parameters of the moved columns, from columns in the order of the chain."""
        features = self.features(chain)
        if self.context_dim:
            assert context is not None
            expanded = context.to(features.dtype).expand(*features.shape[:-1], self.context_dim)
            features = torch.cat([features, expanded], -1)
        return self.conditioner(features)

    def _one_pass(self, v: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """The direction whose parameters depend on its argument."""
        self._check(v, context)
        rest, moved = self.partition.split(v)
        apply = self.elementwise.inverse if inverse else self.elementwise.forward
        moved, log_det = apply(moved, self._condition(torch.cat([rest, moved], -1), context))
        return self.partition.join(rest, moved), log_det

    def _many_passes(self, v: Tensor, context: Tensor | None, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """The direction whose parameters depend on its result: pass k makes the k-th moved column right."""
        self._check(v, context)
        rest, moved = self.partition.split(v)
        apply = self.elementwise.inverse if inverse else self.elementwise.forward
        result, log_det = moved, v.new_zeros(v.shape[:-1])
        column = torch.arange(self.num_moved, device=v.device)
        for k in range(self.num_moved):
            right, log_det = apply(moved, self._condition(torch.cat([rest, result], -1), context))
            # What is not right yet keeps its old value, lest it grow until infinity times a masked weight gives NaN.
            result = torch.where(column <= k, right, moved)
        return self.partition.join(rest, result), log_det


class MaskedAutoregressive(Autoregressive):
    """x_k = f(z_k; network(x_<k, context)): densities in one pass, draws in dim passes. Arguments as in `Autoregressive`.

    References:
        Papamakarios, Pavlakou, Murray: Masked autoregressive flow for density estimation (2017)

    >>> MaskedAutoregressive(2).inverse(torch.tensor([0.3, -0.4], dtype=torch.float64))[0].tolist()
    [0.3, -0.4]
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._many_passes(z, context, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._one_pass(x, context, inverse=True)


class InverseAutoregressive(Autoregressive):
    """x_k = f(z_k; network(z_<k, context)): draws in one pass, densities in dim passes. Arguments as in `Autoregressive`.

    References:
        Kingma et al.: Improving variational inference with inverse autoregressive flow (2016)

    >>> InverseAutoregressive(2)(torch.tensor([0.3, -0.4], dtype=torch.float64))[1].item()
    0.0
    """

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._one_pass(z, context, inverse=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._many_passes(x, context, inverse=True)
