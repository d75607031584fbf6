"""A normalised density whose coordinates have names and a support: what marginals and conditionals of a posterior are."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .supports import Kind, Line, Support
from .tt.arguments import check_columns, check_positions, seeded

__all__ = ["NamedDensity"]


class NamedDensity:
    """A density over a `Support`, drawn from and evaluated by the distribution that it wraps.

    Args:
        distribution: normalised, over the user's coordinates: ``log_prob(x)`` and ``sample(shape, generator=)``; whatever
            else it offers (Sobol draws, ``rsample``, ``marginal``, ``condition``) is passed on.
        support: names and sets of the coordinates.

    Raises:
        ValueError: distribution and support have different numbers of coordinates.
    """

    def __init__(self, distribution: Any, support: Support) -> None:
        found = tuple(getattr(distribution, "event_shape", (support.dim,)))
        if found != (support.dim,):
            raise ValueError(
                f"{type(self).__name__}: expected a distribution over {support.dim} coordinates; got event shape {found}. "
                "Pass the support it lives on."
            )
        self.distribution = distribution
        self.support = support
        self._inside: Tensor | None = None

    # -- description -----------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.support.dim

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one draw."""
        return torch.Size([self.dim])

    @property
    def names(self) -> tuple[str, ...]:
        """One name per coordinate."""
        return self.support.names

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of each coordinate; entries of a simplex or a matrix count as lines."""
        found: list[Kind] = []
        for block in self.support.blocks:
            entries = block.x_slice.stop - block.x_slice.start
            joint = block.constraint.event_dim > 0
            found += [Line()] * entries if joint else self.support.kinds[block.y_slice]
        return tuple(found)

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the draws."""
        return getattr(self.distribution, "dtype", torch.float64)

    @property
    def device(self) -> torch.device:
        """Device of the draws."""
        return torch.device(getattr(self.distribution, "device", "cpu"))

    @property
    def has_rsample(self) -> bool:
        """Whether draws can be differentiated in the parameters of the distribution."""
        return bool(getattr(self.distribution, "has_rsample", False))

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", …" if self.dim > 6 else "")
        return f"{type(self).__name__}({shown}; {type(self.distribution).__name__})"

    # -- density and draws -----------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor) -> Tensor:
        """The normalised log-density: exact, differentiable; ``-inf`` outside the support, NaN where ``x`` is NaN.

        Args:
            x: shape ``(..., dim)``.

        Returns:
            Shape ``(...)``.

        Raises:
            ValueError: the last dimension of ``x`` is another.
        """
        x = check_columns(x, self.dim, "log_prob").to(dtype=self.dtype, device=self.device)
        rows = x.reshape(-1, self.dim)
        inside = self.support.contains(rows)
        if bool(inside.all()):
            return self.distribution.log_prob(rows).reshape(x.shape[:-1])
        # The distribution never sees a point outside: it might raise, and a NaN would reach the gradients of the rest.
        value = self.distribution.log_prob(torch.where(inside[:, None], rows, self._inner_point()))
        value = torch.where(inside, value, -math.inf)
        return torch.where(rows.isnan().any(-1), math.nan, value).reshape(x.shape[:-1])

    def sample(
        self,
        shape: Sequence[int] | int = (),
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        sobol: bool = False,
    ) -> Tensor:
        """Exact independent draws of this density.

        Args:
            shape: leading shape of the result; a number is a shape of one dimension.
            generator, seed: source of randomness; ``seed`` makes a generator.
            sobol: scrambled Sobol points pushed through the transport, where the distribution has one.

        Returns:
            Shape ``(*shape, dim)``.

        Raises:
            ValueError: both ``generator`` and ``seed`` were given, or there are no Sobol points.
        """
        source = seeded(generator, seed, self.device, "sample")
        leading = _shape(shape)
        if leading.numel() == 0:
            return torch.zeros(*leading, self.dim, dtype=self.dtype, device=self.device)
        arguments: dict[str, Any] = {"generator": source}
        if sobol:
            if "sobol" not in inspect.signature(self.distribution.sample).parameters:
                raise ValueError(
                    f"sample: expected a distribution with Sobol points; got {type(self.distribution).__name__}. "
                    "Drop sobol=True."
                )
            arguments["sobol"] = True
        with torch.no_grad():
            return self.distribution.sample(leading, **arguments)

    def rsample(self, shape: Sequence[int] | int = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draws that are differentiable in the parameters of the distribution.

        Raises:
            TypeError: the distribution has none.
        """
        if not self.has_rsample:
            raise TypeError(
                f"rsample: expected a distribution with reparameterised draws; got {type(self.distribution).__name__}. "
                "Use sample()."
            )
        return self.distribution.rsample(_shape(shape), generator=generator)

    def _inner_point(self) -> Tensor:
        """One point of the support."""
        if self._inside is None:
            source = torch.Generator(self.device).manual_seed(0)
            self._inside = self.distribution.sample(torch.Size([1]), generator=source)[0].detach()
        return self._inside

    # -- parts -----------------------------------------------------------------------------------------------------

    def positions(self, keys: Any, *, caller: str = "positions") -> list[int]:
        """Ascending positions of coordinates that are given by number, by name, or by the name of a block.

        Args:
            keys: one of them, or several.
            caller: the public name for error messages.

        Raises:
            IndexError: a position does not exist.
            ValueError: a name does not exist, or a coordinate is named twice.
        """
        several = keys if isinstance(keys, Iterable) and not isinstance(keys, str) else [keys]
        found: list[int] = []
        for key in several:
            found += self._named(key, caller) if isinstance(key, str) else [key]
        return sorted(check_positions(found, self.dim, caller))

    def _named(self, name: str, caller: str) -> list[int]:
        place = self._places.get(name)
        if place is None:
            shown = ", ".join(list(self._places)[:12])
            raise ValueError(
                f"{caller}: expected the name of a coordinate ({shown}); got {name!r}. Check the spelling."
            )
        return [place] if isinstance(place, int) else list(range(place.start, place.stop))

    @property
    def _places(self) -> dict[str, int | slice]:
        """Name to position for entries, to slice for blocks."""
        places: dict[str, int | slice] = {b.name: b.x_slice for b in self.support.blocks if b.size is not None}
        return places | {name: k for k, name in enumerate(self.names)}

    def marginal(self, dims: Any) -> NamedDensity:
        """The exact marginal of some coordinates, in their original order.

        Args:
            dims: positions, names, or names of blocks.

        Raises:
            IndexError, ValueError: a coordinate does not exist, or this approximation has no exact marginal of them.
        """
        return NamedDensity(*self._marginal(dims)[1:])

    def _marginal(self, dims: Any) -> tuple[list[int], Any, Support]:
        keep = self.positions(dims, caller="marginal")
        if not keep:
            raise ValueError("marginal: expected at least one coordinate to keep; got none. Name some, e.g. [0, 3].")
        if not hasattr(self.distribution, "marginal"):
            raise ValueError(
                f"marginal: expected an approximation with exact marginals; got a {type(self.distribution).__name__}, which "
                "mixes its coordinates. Use columns of sample(), or the weighted draws."
            )
        if len(keep) == self.dim:
            return keep, self.distribution, self.support
        support = self.support.select(keep, caller="marginal")[0]
        return keep, self.distribution.marginal(keep), support

    def condition(self, values: Mapping[int | str, Any]) -> NamedDensity:
        """The exact conditional density of the remaining coordinates.

        Args:
            values: position, name or name of a block to the value: one number per coordinate.

        Raises:
            IndexError, ValueError: a coordinate does not exist or is named twice, a value has a wrong shape, nothing or
                everything is fixed, or this approximation has no exact conditional given them.
            SupportError: a value lies outside the support.
        """
        fixed: dict[int, Tensor] = {}
        for key, value in values.items():
            places = self.positions(key, caller="condition")
            entries = torch.as_tensor(value, dtype=self.dtype, device=self.device).reshape(-1)
            if len(entries) != len(places):
                raise ValueError(
                    f"condition: expected {len(places)} values for {key!r}; got {len(entries)}. "
                    "Give one number per coordinate."
                )
            if any(place in fixed for place in places):
                raise ValueError(f"condition: expected each coordinate once; got {key!r} again. Name it once.")
            fixed |= dict(zip(places, entries))
        rest = [k for k in range(self.dim) if k not in fixed]
        if not fixed or not rest:
            raise ValueError(
                f"condition: expected between 1 and {self.dim - 1} coordinates; got {len(fixed)}. Leave one free."
            )
        if not hasattr(self.distribution, "condition"):
            raise ValueError(
                f"condition: expected an approximation with exact conditionals; got a {type(self.distribution).__name__}, "
                "which mixes its coordinates. Fit with those values fixed in the log-density."
            )
        support = self.support.select(rest, caller="condition")[0]
        return NamedDensity(self.distribution.condition(dict(sorted(fixed.items()))), support)

    def to_dict(self, x: Tensor) -> dict[str, Tensor]:
        """Points as one tensor per block of the support, each in its own shape.

        Args:
            x: shape ``(..., dim)``.

        Returns:
            Name to a tensor of shape ``(...)`` for a scalar, ``(..., size)`` for a vector, ``(..., c, c)`` for a matrix.

        >>> from ttvi.supports import positive, real
        >>> density = NamedDensity(None, Support.parse({"tau": positive, "theta": (real, 8)}))
        >>> {name: tuple(value.shape) for name, value in density.to_dict(torch.ones(5, 9)).items()}
        {'tau': (5,), 'theta': (5, 8)}
        """
        x = check_columns(x, self.dim, "to_dict")
        parts = {}
        for block in self.support.blocks:
            part = x[..., block.x_slice]
            if block.size is None:
                part = part.squeeze(-1)
            elif block.constraint.event_dim == 2:
                part = part.unflatten(-1, (block.size, block.size))
            parts[block.name] = part
        return parts


def _shape(shape: Sequence[int] | int) -> torch.Size:
    return torch.Size([shape] if isinstance(shape, int) else list(shape))
