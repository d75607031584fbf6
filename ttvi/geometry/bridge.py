"""A composition of Rosenblatt transports: what one train cannot hold, several can, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..records import register
from ..tt.arguments import check_columns, check_positions
from ..tt.basis import Basis, Fourier, Legendre
from ..tt.density import TTDensity
from ..tt.rosenblatt import sobol_points
from .composed import Composed

__all__ = ["Bridge", "Reference"]


class Reference:
    r"""The uniform density of the coordinates :math:`v \in [-1, 1]^d` in which a layer is built, and its transport.

    Relative to it a small error of a train is small everywhere; beside the tails of a normal reference it would not be. The
    functions of an angle are periodic.

    Args:
        circle: which coordinates are angles, shape (d,), bool.

    >>> reference = Reference(torch.tensor([False, True]))
    >>> reference.level(torch.tensor([[0.0, 0.5]]))
    tensor([[0.5000, 0.7500]])
    """

    def __init__(self, circle: Tensor) -> None:
        self.circle = circle

    @property
    def log_density(self) -> float:
        """Its logarithm, the same everywhere."""
        return -len(self.circle) * math.log(2.0)

    def bases(self) -> list[Basis]:
        """A basis without size for every coordinate."""
        return [Fourier(-1.0, 1.0) if flag else Legendre(-1.0, 1.0) for flag in self.circle.tolist()]

    def level(self, v: Tensor) -> Tensor:
        """Levels in the unit cube, of the shape (..., d) of ``v``."""
        return (0.5 * (1 + v)).clamp(0, 1)

    def point(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`level`; rounded levels may lie just outside the cube."""
        return (2 * u - 1).clamp(-1, 1)


@register("Bridge")
class Bridge(Composed):
    r"""The density of :math:`w = R_0^{-1}(L(v_1)),\ v_1 = R_1^{-1}(L(v_2)),\ \dots,\ v_K = R_K^{-1}(u)` with uniform ``u``.

    .. math:: q(w) = q_0(w) \prod_{k=1}^K \frac{q_k(v_k)}{\rho(v_k)}

    :math:`R_k` is the Rosenblatt transport of the train of layer k, and :math:`L(v) = (1 + v)/2` that of the uniform :class:`Reference` :math:`\rho`.
    Every map is triangular, so that a prefix of the coordinates has exact marginals, and the others given it exact conditionals.

    Args:
        layers: the density of ``w``, then densities of ``v_1``, ``v_2``, …: unbatched trains of continuous coordinates.

    Raises:
        TypeError: there is a finite coordinate, whose transport is no bijection, or something is not a ``TTDensity``.
        ValueError: there is no layer, or the layers do not fit together.

    References:
        Cui, Dolgov: Deep composition of tensor-trains using squared inverse Rosenblatt transports (2022).

    >>> narrow = lambda v: -20 * v.square().sum(-1)
    >>> layers = [TTDensity.fit(narrow, [Legendre(-1.0, 1.0)], seed=0) for _ in range(2)]
    >>> bridge = Bridge(layers)
    >>> x = bridge.sample((4000,), generator=torch.Generator().manual_seed(0))
    >>> w = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    >>> density = bridge.log_prob(w[:, None]).exp()
    >>> round(float(torch.trapezoid(density, w)), 4), bool(x.std() < layers[0].sample((4000,)).std())
    (1.0, True)
    """

    def __init__(self, layers: Sequence[TTDensity]) -> None:
        self.layers = list(layers)
        if not self.layers:
            raise ValueError(
                "Bridge: expected at least one layer; got none. Pass the density of the coordinates first."
            )
        for layer in self.layers:
            if not isinstance(layer, TTDensity) or any(basis.discrete for basis in layer.bases):
                kind = "one with a finite coordinate" if isinstance(layer, TTDensity) else type(layer).__name__
                raise TypeError(
                    f"Bridge: expected layers that are TTDensity of continuous coordinates; got {kind}. "
                    "The transport of a finite coordinate is no bijection: use a train, or an atlas."
                )
        dim = len(self.layers[0].bases)
        self.reference = Reference(torch.tensor([basis.periodic for basis in self.layers[0].bases]))
        for layer in self.layers[1:]:
            wanted = [(type(basis), -1.0, 1.0) for basis in self.reference.bases()]
            got = [(type(b), getattr(b, "lower", None), getattr(b, "upper", None)) for b in layer.bases]
            if got != wanted:
                raise ValueError(
                    f"Bridge: expected further layers in the {dim} coordinates of the reference; got {list(layer.bases)}. "
                    "Fit them on `Bridge(layers).reference.bases()`."
                )
        if any(layer.batch_shape for layer in self.layers):
            raise ValueError("Bridge: expected unbatched layers; got a batch. Make one bridge per member.")
        super().__init__(torch.Size([dim]))

    @property
    def bases(self) -> tuple[Basis, ...]:
        """The bases of the first layer."""
        return self.layers[0].bases

    @property
    def support(self) -> constraints.Constraint:
        """That of the first layer."""
        return self.layers[0].support

    @property
    def _first(self) -> Any:
        return self.layers[0]

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Always: the composition is a smooth map of the unit cube."""
        return True

    def __repr__(self) -> str:
        ranks = [max(layer.train.ranks) for layer in self.layers]
        return f"Bridge({self.event_shape[0]} coordinates, {len(ranks)} layers of ranks {ranks})"

    # -- the map -------------------------------------------------------------------------------------------------------

    def push(self, v: Tensor) -> tuple[Tensor, Tensor]:
        r"""Reference coordinates of a layer to come, to points and :math:`\log |\partial w/\partial v|`.

        Args:
            v: in [-1, 1], shape (..., d).

        Returns:
            Points of the support, shape (..., d), and a tensor of shape (...).
        """
        volume = v.new_zeros(v.shape[:-1])
        for layer in reversed(self.layers):
            v = layer.inverse_rosenblatt(self.reference.level(v))
            volume = volume + self.reference.log_density - layer.log_prob(v)
        return v, volume

    def rosenblatt(self, w: Tensor) -> Tensor:
        """The composed triangular map to the unit cube: uniform for draws of ``self``.

        Args:
            w: points of the support, shape (..., d).

        Returns:
            The same shape.
        """
        return self._levels(check_columns(w, self.event_shape[0], "rosenblatt"))[0]

    def inverse_rosenblatt(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`rosenblatt`, differentiable.

        Args:
            u: levels in the closed unit cube, shape (..., d).

        Returns:
            Points of the same shape.

        Raises:
            ValueError: a level lies outside [0, 1].
        """
        for layer in reversed(self.layers[1:]):
            u = self.reference.level(layer.inverse_rosenblatt(u))
        return self.layers[0].inverse_rosenblatt(u)

    def _levels(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Levels of the last layer and the log-density, for points inside the support."""
        total = self.layers[0].log_prob(w)
        u = self.layers[0].rosenblatt(w).clamp(0, 1)  # rounded, it may lie just outside
        for layer in self.layers[1:]:
            v = self.reference.point(u)
            total = total + layer.log_prob(v) - self.reference.log_density
            u = layer.rosenblatt(v).clamp(0, 1)
        return u, total

    # -- density and draws ---------------------------------------------------------------------------------------------

    def log_prob(self, value: Tensor) -> Tensor:
        """The normalised log-density: exact, differentiable, ``-inf`` outside the support.

        Args:
            value: shape (..., d).

        Returns:
            Shape (...).
        """
        w = check_columns(value, self.event_shape[0], "log_prob").to(dtype=self.dtype, device=self.device)
        inside = self.support.check(w)
        if inside.dim() == w.dim():
            inside = inside.all(-1)
        safe = torch.where(inside[..., None], w, self._middle)
        return torch.where(inside, self._levels(safe)[1], -math.inf)

    @cached_property
    def _middle(self) -> Tensor:
        """A point inside the support, shape (d,), to stand in where there is nothing to evaluate."""
        half = torch.full((), 0.5, dtype=torch.float64)
        columns = [basis.reference_icdf(half) for basis in self.bases]
        return torch.stack(columns).to(dtype=self.dtype, device=self.device)

    def sample(
        self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None, sobol: bool = False
    ) -> Tensor:
        """Exact draws.

        Args:
            sample_shape: leading shape of the result.
            generator: source of randomness.
            sobol: quasi-Monte Carlo points, carried through all layers.

        Returns:
            Shape ``(*sample_shape, d)``.
        """
        with torch.no_grad():
            return self.inverse_rosenblatt(self._uniform(torch.Size(sample_shape), generator, sobol))

    def rsample(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Draws with gradients in the cores of all layers, shape ``(*sample_shape, d)``."""
        return self.inverse_rosenblatt(self._uniform(torch.Size(sample_shape), generator, False))

    def _uniform(self, shape: torch.Size, generator: torch.Generator | None, sobol: bool) -> Tensor:
        dim = self.event_shape[0]
        if sobol:
            like = torch.empty((), dtype=self.dtype, device=self.device)
            return sobol_points((shape.numel(), 1, dim), like, generator).view(*shape, dim)
        return torch.rand(*shape, dim, dtype=self.dtype, device=self.device, generator=generator)

    # -- prefixes ------------------------------------------------------------------------------------------------------

    def marginal(self, dims: Sequence[int]) -> Bridge:
        """The exact marginal of the first coordinates.

        Args:
            dims: their positions, 0 to some m - 1.

        Raises:
            ValueError: another set of coordinates, which the transports mix.
            IndexError: a position does not exist.
        """
        kept = self._prefix(dims, "marginal")
        return self if len(kept) == self.event_shape[0] else Bridge([layer.marginal(kept) for layer in self.layers])

    def condition(self, values: Mapping[int, Any]) -> Bridge:
        """The exact conditional density of the last coordinates given the first ones.

        Args:
            values: position to number, for the positions 0 to some m - 1.

        Raises:
            ValueError: another set of coordinates, which the transports mix, or all of them.
            IndexError: a position does not exist.
            SupportError: a value lies outside the support.
        """
        fixed = self._prefix(list(values), "condition")
        if len(fixed) == self.event_shape[0]:
            raise ValueError(
                f"condition: expected fewer than {len(fixed)} coordinates; got all of them. Leave one free."
            )
        given = {k % self.event_shape[0]: value for k, value in values.items()}
        point = torch.stack([torch.as_tensor(given[k], dtype=self.dtype, device=self.device) for k in fixed])
        reference = Reference(self.reference.circle[fixed])
        layers = []
        for layer in self.layers:
            layers.append(layer.condition(dict(enumerate(point.unbind()))))
            point = reference.point(layer.marginal(fixed).rosenblatt(point))
        return Bridge(layers)

    def _prefix(self, dims: Sequence[int], caller: str) -> list[int]:
        """Ascending positions, when they are the first ones."""
        positions = sorted(check_positions(dims, self.event_shape[0], caller))
        if not positions or positions != list(range(len(positions))):
            raise ValueError(
                f"{caller}: expected the first coordinates, 0 to some m - 1; got {positions}. The transports of a bridge mix "
                "the others with those before them. Use columns of `sample`, or put the coordinates of interest first."
            )
        return positions

    def _to_record(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """Description, tensors and children, for :mod:`ttvi.records`."""
        return {}, {}, {"layers": self.layers}

    @classmethod
    def _from_record(
        cls, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], children: Mapping[str, Any]
    ) -> Bridge:
        return cls(children["layers"])
