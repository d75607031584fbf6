"""The networks that turn some coordinates and a context into the parameters of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "Conditioner",
    "Features",
    "Kind",
    "Linear",
    "LocalConditioner",
    "as_vector",
    "is_plain",
    "parse_kinds",
    "seeded_generator",
]

# "real", ("interval", lower, upper), ("circle", lower, upper) or ("discrete", lowest, highest) with integers in between.
Kind: TypeAlias = str | Sequence[object]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

# Up to this many categories a discrete coordinate enters a network as indicators, beyond as one scaled number.
MAX_INDICATORS = 16


def parse_kinds(kinds: Sequence[Kind] | None, dim: int, caller: str) -> list[tuple[str, float, float]]:
    """One ``(name, lower, upper)`` per coordinate, the names being real, interval, circle and discrete.

    Raises:
        ValueError: a kind is unknown, or their number is not ``dim``.

    >>> parse_kinds(["real", ("circle", -1, 1)], 2, "Flow")
    [('real', -inf, inf), ('circle', -1.0, 1.0)]
    """
    if kinds is None:
        kinds = ["real"] * dim
    if len(kinds) != dim:
        raise ValueError(f"{caller}: expected {dim} kinds; got {len(kinds)}. Give one per coordinate.")
    parsed = []
    for kind in kinds:
        parts = [kind] if isinstance(kind, str) else list(kind)
        name = parts[0] if parts else None
        if name == "real" and (len(parts) == 1 or parts[1:] == [-math.inf, math.inf]):
            parsed.append(("real", -math.inf, math.inf))
            continue
        lower, upper = (float(value) for value in parts[1:]) if len(parts) == 3 else (0.0, 0.0)  # type: ignore[arg-type]
        # A finite set may hold one value; a circle has a length.
        if not (name in ("circle", "interval") and -math.inf < lower < upper < math.inf) and not (
            name == "discrete" and len(parts) == 3 and lower <= upper < math.inf
        ):
            raise ValueError(
                f'{caller}: expected kinds "real", ("interval", lower, upper), ("circle", lower, upper) or ("discrete", lowest, highest); got {kind!r}. '
                "Describe each coordinate by one of these."
            )
        parsed.append((str(name), lower, upper))
    return parsed


def as_vector(value: object, dim: int, default: float, dtype: torch.dtype, name: str, caller: str) -> Tensor:
    """A finite vector of length ``dim`` from a number, a sequence, a tensor or None.

    Raises:
        ValueError: it has another length, is not finite, or is a scale and not positive.
    """
    vector = torch.as_tensor(default if value is None else value, dtype=dtype).detach().cpu()
    if vector.dim() > 1 or (vector.dim() == 1 and len(vector) != dim) or not bool(torch.isfinite(vector).all()):
        raise ValueError(
            f"{caller}: expected `{name}` to be {dim} finite numbers; got shape {tuple(vector.shape)}. One per coordinate."
        )
    if name == "scale" and not bool((vector > 0).all()):
        raise ValueError(f"{caller}: expected `scale` to be positive; got {vector.tolist()}. Take standard deviations.")
    return vector.expand(dim).clone()


def is_plain(loc: Tensor, scale: Tensor) -> bool:
    """Whether standardising by these changes nothing, so that it may be left out."""
    return bool((loc == 0).all()) and bool((scale == 1).all())


def seeded_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or a fresh one: never the global one."""
    return generator if generator is not None else torch.Generator().manual_seed(0)


def activation_of(name: str, caller: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"{caller}: expected an activation among {', '.join(sorted(ACTIVATIONS))}; got {name!r}. Name one."
        )
    return ACTIVATIONS[name]


class Linear(nn.Module):
    """An affine map, weights and bias uniform in ±1/√inputs, or zero without a generator.

    `torch.nn.Linear` initialises itself from the global generator.

    Args:
        inputs: number of inputs; may be 0.
        outputs: number of outputs.
        generator: source of the weights.
        dtype: floating type.
    """

    def __init__(self, inputs: int, outputs: int, *, generator: torch.Generator | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.inputs = inputs
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype))
        if generator is not None and inputs:
            bound = 1.0 / math.sqrt(inputs)
            with torch.no_grad():
                # Drawn in double precision on the generator's device, so that every dtype starts from the same numbers.
                for parameter in (self.weight, self.bias):
                    draws = torch.rand(
                        parameter.shape, generator=generator, device=generator.device, dtype=torch.float64
                    )
                    parameter.copy_(bound * (2 * draws - 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Features(nn.Module):
    """Coordinates as a network should see them: standardised, angles as (cos, sin), categories as indicators.

    Args:
        kinds: the parsed kinds of the incoming columns.
        loc: typical location of each column; used for real ones. An interval is standardised as a uniform variable.
        scale: typical spread of each column; used for real ones.

    Attributes:
        size: number of features.
        owner: the column that each feature comes from.
    """

    loc: Tensor
    scale: Tensor
    angle_origin: Tensor
    angle_rate: Tensor
    values: Tensor
    middles: Tensor
    rates: Tensor
    columns_real: Tensor
    columns_circle: Tensor
    columns_indicator: Tensor
    columns_many: Tensor

    def __init__(self, kinds: Sequence[tuple[str, float, float]], loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        dtype = loc.dtype
        columns: dict[str, list[int]] = {"real": [], "circle": [], "few": [], "many": []}
        loc, scale = loc.clone(), scale.clone()
        for k, (name, lower, upper) in enumerate(kinds):
            if name == "interval":
                loc[k], scale[k] = (lower + upper) / 2, (upper - lower) / math.sqrt(12)
            few = "few" if upper - lower < MAX_INDICATORS else "many"
            columns[{"interval": "real", "discrete": few}.get(name, name)].append(k)
        self.owner = columns["real"] + columns["circle"] * 2
        # One comparison serves all indicators: column `self.few[j]` against the value `self.values[j]`.
        pairs = [(k, kinds[k][1] + j) for k in columns["few"] for j in range(int(kinds[k][2] - kinds[k][1]) + 1)]
        self.owner += [k for k, _ in pairs] + columns["many"]
        self.size = len(self.owner)
        self._all_real = len(columns["real"]) == len(kinds)
        self._plain = self._all_real and is_plain(loc, scale)
        for name, index in (*columns.items(), ("indicator", [k for k, _ in pairs])):
            self.register_buffer(f"columns_{name}", torch.tensor(index, dtype=torch.long), persistent=False)
        self.register_buffer("loc", loc[columns["real"]].clone())
        self.register_buffer("scale", scale[columns["real"]].clone())
        bounds = [kinds[k] for k in columns["circle"]]
        self._constant("angle_origin", [lower for _, lower, _ in bounds], dtype)
        self._constant("angle_rate", [2 * math.pi / (upper - lower) for _, lower, upper in bounds], dtype)
        self._constant("values", [value for _, value in pairs], dtype)
        self._constant("middles", [(kinds[k][1] + kinds[k][2]) / 2 for k in columns["many"]], dtype)
        self._constant("rates", [2 / (kinds[k][2] - kinds[k][1]) for k in columns["many"]], dtype)

    def _constant(self, name: str, values: list[float], dtype: torch.dtype) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """Features of shape ``(..., size)`` from columns of shape ``(..., number of kinds)``."""
        if self._plain:
            return columns
        if self._all_real:
            return (columns - self.loc) / self.scale
        parts = []
        if len(self.loc):
            parts.append((columns.index_select(-1, self.columns_real) - self.loc) / self.scale)
        if len(self.angle_rate):
            angle = (columns.index_select(-1, self.columns_circle) - self.angle_origin) * self.angle_rate
            parts += [angle.cos(), angle.sin()]
        if len(self.values):
            indicator = columns.index_select(-1, self.columns_indicator) == self.values
            parts.append(indicator.to(columns.dtype))
        if len(self.rates):
            parts.append((columns.index_select(-1, self.columns_many) - self.middles) * self.rates)
        return torch.cat(parts, -1) if parts else columns.new_zeros(*columns.shape[:-1], 0)


class Conditioner(nn.Module):
    """A multilayer perceptron whose last layer is zero, or plain parameters where there is nothing to condition on.

    Args:
        inputs: number of features and context values together.
        outputs: number of parameters produced.
        hidden: widths of the hidden layers.
        activation: one of ``elu``, ``relu``, ``silu``, ``tanh``.
        generator: source of the initial weights.
        dtype: floating type.

    >>> Conditioner(3, 2)(torch.ones(5, 3, dtype=torch.float64)).abs().max().item()
    0.0
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.activation = activation_of(activation, "Conditioner")
        generator = seeded_generator(generator)
        widths = [inputs, *hidden] if inputs else []
        self.layers = nn.ModuleList(Linear(a, b, generator=generator, dtype=dtype) for a, b in zip(widths, widths[1:]))
        self.last = Linear(widths[-1] if widths else 0, outputs, generator=None, dtype=dtype)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of shape ``(..., outputs)``."""
        if context is not None:
            context = context.to(features.dtype).expand(*features.shape[:-1], context.shape[-1])
            features = torch.cat([features, context], -1) if features.shape[-1] else context
        if self.last.inputs == 0:
            return self.last.bias.expand(*features.shape[:-1], -1)
        for weight, bias in self._hidden():
            features = self.activation(F.linear(features, weight, bias))
        return F.linear(features, self.last.weight, self.last.bias)

    def _hidden(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Weights and biases of the hidden layers: looking them up costs as much as multiplying by them."""
        for layer in self.layers:
            parameters = layer._parameters
            yield parameters["weight"], parameters["bias"]  # type: ignore[misc]


class LocalConditioner(nn.Module):
    """A small perceptron for each group of parameters, with inputs of its own; the last layers are zero.

    Args:
        inputs: the features, context values after them, that each perceptron sees, by position.
        size: number of features and context values together.
        outputs: number of parameters that each produces.
        hidden: widths of the hidden layers of each.
        activation: one of ``elu``, ``relu``, ``silu``, ``tanh``.
        generator: source of the initial weights.
        dtype: floating type.

    >>> LocalConditioner([[0], [1, 2]], 3, 2)(torch.ones(5, 3, dtype=torch.float64)).shape
    torch.Size([5, 4])
    """

    inputs: Tensor

    def __init__(
        self,
        inputs: Sequence[Sequence[int]],
        size: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (32, 32),
        activation: str = "silu",
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.activation = activation_of(activation, "LocalConditioner")
        generator = seeded_generator(generator)
        width = max(len(seen) for seen in inputs)
        # Where a perceptron has fewer inputs than another the rest are a column of zeros, behind all features.
        padded = [[*seen, *[size] * (width - len(seen))] for seen in inputs]
        self.register_buffer("inputs", torch.tensor(padded), persistent=False)
        widths = [width, *hidden]
        layers = (Stacked(len(inputs), a, b, generator=generator, dtype=dtype) for a, b in zip(widths, widths[1:]))
        self.layers = nn.ModuleList(layers)
        self.last = Stacked(len(inputs), widths[-1], outputs, generator=None, dtype=dtype)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of shape ``(..., groups * outputs)``, the groups running fastest."""
        if context is not None:
            context = context.to(features.dtype).expand(*features.shape[:-1], context.shape[-1])
            features = torch.cat([features, context], -1)
        rows = F.pad(features.reshape(-1, features.shape[-1]), (0, 1))
        values = rows.mT[self.inputs.mT].transpose(0, 1).mT  # (groups, rows, inputs)
        for layer in self.layers:
            values = self.activation(layer(values))
        return (
            self.last(values)
            .permute(1, 2, 0)
            .reshape(*features.shape[:-1], self.last.weight.shape[0] * self.last.weight.shape[2])
        )


class Stacked(nn.Module):
    """As many affine maps side by side, initialised like `Linear`.

    Args:
        count: number of maps.
        inputs, outputs: of each.
        generator: source of the weights; zero without one.
        dtype: floating type.
    """

    def __init__(
        self, count: int, inputs: int, outputs: int, *, generator: torch.Generator | None, dtype: torch.dtype
    ) -> None:
        super().__init__()
        maps = [Linear(inputs, outputs, generator=generator, dtype=dtype) for _ in range(count)]
        self.weight = nn.Parameter(torch.stack([part.weight.detach().mT for part in maps]))
        self.bias = nn.Parameter(torch.stack([part.bias.detach()[None] for part in maps]))

    def forward(self, x: Tensor) -> Tensor:
        """From shape ``(count, rows, inputs)`` to ``(count, rows, outputs)``."""
        return torch.baddbmm(self.bias, x, self.weight)
