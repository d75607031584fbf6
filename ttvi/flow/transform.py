"""The contract that every transform keeps: both directions, both log-determinants, a description that rebuilds it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Compose", "Transform", "from_spec"]


class Transform(nn.Module, ABC):
    """A differentiable bijection of R^dim, possibly depending on a context.

    Subclasses start as the identity: ``forward(z)`` returns ``z`` bit for bit and a log-determinant of exactly zero,
    while the gradient with respect to their parameters is not zero. (`Permutation` alone moves from the start.)

    Args:
        dim: number of coordinates.
        context_dim: number of conditioning values; 0 for none.
        arguments: what the constructor needs to build an equal module, in terms of JSON.
    """

    _classes: ClassVar[dict[str, type[Transform]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Transform._classes[cls.__name__] = cls

    def __init__(self, dim: int, context_dim: int = 0, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if int(dim) != dim or dim < 1 or int(context_dim) != context_dim or context_dim < 0:
            raise ValueError(
                f"{type(self).__name__}: expected `dim` >= 1 and `context_dim` >= 0; got {dim} and {context_dim}. "
                "Count the coordinates and the conditioning values."
            )
        self.dim = int(dim)
        self.context_dim = int(context_dim)
        self._arguments = {"dim": self.dim, "context_dim": self.context_dim, **(arguments or {})}

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image of ``z`` and the log-determinant of the map there.

        Args:
            z: points, shape ``(..., dim)``.
            context: conditioning values, shape ``(..., context_dim)``, broadcast against the batch.

        Returns:
            x: shape ``(..., dim)``.
            log |det dx/dz|: shape ``(...)``.

        Raises:
            ValueError: a shape does not fit, or the context is missing.
        """

    @abstractmethod
    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Preimage of ``x`` and log |det dz/dx|; shapes as in `forward`."""

    def carry(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        r"""`forward`, and what becomes of a score: :math:`J^{-\mathsf T} (\nabla_z \log q - \nabla_z \log \lvert \det J \rvert)`.

        Args:
            z: points, shape ``(batch, dim)``.
            score: gradient of a log-density there, shape ``(batch, dim)``.
            context: conditioning values, shape ``(batch, context_dim)``.

        Returns:
            x, log-determinant: of `forward`.
            score: gradient of the log-density of the image at ``x``, without a graph.
        """
        x, log_det = self(z, context)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            back, change = self.inverse(leaf, context)
            (moved,) = torch.autograd.grad((back * score).sum() + change.sum(), leaf)
        return x, log_det, moved

    def spec(self) -> dict[str, Any]:
        """Class name and constructor arguments, fit for JSON; `from_spec` and ``load_state_dict`` restore the rest."""
        return {"class": type(self).__name__, **copy.deepcopy(self._arguments)}

    @classmethod
    def _from_spec(cls, arguments: dict[str, Any], dtype: torch.dtype) -> Transform:
        return cls(arguments.pop("dim"), dtype=dtype, **arguments)  # type: ignore[call-arg]

    def _check(self, z: Tensor, context: Tensor | None) -> None:
        """Shapes of one call; cheap enough for every one."""
        if z.dim() == 0 or z.shape[-1] != self.dim:
            raise ValueError(
                f"{type(self).__name__}: expected points of shape (..., {self.dim}); got {tuple(z.shape)}. "
                "One column per coordinate."
            )
        if self.context_dim and (context is None or context.shape[-1:] != (self.context_dim,)):
            got = "none" if context is None else f"shape {tuple(context.shape)}"
            raise ValueError(
                f"{type(self).__name__}: expected a context of shape (..., {self.context_dim}); got {got}. "
                "Pass `context=` with one column per conditioning value."
            )


class Compose(Transform):
    """Transforms one after another; the log-determinants add.

    Args:
        transforms: applied to ``z`` from first to last; all of one dimension and one context.

    >>> from ttvi.flow.linear import Permutation
    >>> swap = Permutation(2, order=[1, 0])
    >>> Compose([swap, swap])(torch.tensor([1.0, 2.0]))[0]
    tensor([1., 2.])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        parts = list(transforms)
        if not parts or len({part.dim for part in parts}) > 1:
            raise ValueError(
                f"Compose: expected transforms of one dimension; got dimensions {[part.dim for part in parts]}. "
                "Build them with the same `dim`."
            )
        contexts = {part.context_dim for part in parts} - {0}
        if len(contexts) > 1:
            raise ValueError(
                f"Compose: expected one context dimension; got {sorted(contexts)}. Give all transforms the same context."
            )
        super().__init__(parts[0].dim, max(contexts, default=0))
        self.transforms = nn.ModuleList(parts)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(z, context)
        z, total = self.transforms[0](z, context)
        for transform in self.transforms[1:]:
            z, log_det = transform(z, context)
            total = total + log_det
        return z, total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._check(x, context)
        *before, last = self._parts()
        x, total = last.inverse(x, context)
        for transform in before[::-1]:
            x, log_det = transform.inverse(x, context)
            total = total + log_det
        return x, total

    def carry(self, z: Tensor, score: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        total = z.new_zeros(z.shape[:-1])
        for transform in self._parts():
            z, log_det, score = transform.carry(z, score, context)
            total = total + log_det
        return z, total, score

    def spec(self) -> dict[str, Any]:
        return {"class": "Compose", "transforms": [part.spec() for part in self._parts()]}

    def _parts(self) -> list[Transform]:
        return [part for part in self.transforms if isinstance(part, Transform)]

    @classmethod
    def _from_spec(cls, arguments: dict[str, Any], dtype: torch.dtype) -> Compose:
        return cls([from_spec(spec, dtype=dtype) for spec in arguments["transforms"]])


def from_spec(spec: Mapping[str, Any], *, dtype: torch.dtype = torch.float64) -> Transform:
    """The transform that ``spec()`` described, freshly initialised; ``load_state_dict`` brings its parameters back.

    Args:
        spec: result of `Transform.spec`, possibly through JSON.
        dtype: floating type of parameters and buffers.

    Raises:
        ValueError: no transform has that name.

    >>> from ttvi.flow.coupling import AffineCoupling
    >>> from_spec(AffineCoupling(3).spec()).dim
    3
    """
    arguments = copy.deepcopy(dict(spec))
    name = arguments.pop("class", None)
    if name not in Transform._classes:
        known = ", ".join(sorted(name for name, cls in Transform._classes.items() if not cls.__abstractmethods__))
        raise ValueError(f"from_spec: expected the name of a transform; got {name!r}. Known are {known}.")
    return Transform._classes[name]._from_spec(arguments, dtype)
