"""Mixings by name, for files."""

from __future__ import annotations

from typing import Any

from .angles import Angles
from .bounded import Bounded
from .conditional import ConditionallyAffine
from .mixing import Affine, Mixing, Scaled, Triangular

__all__ = ["mixing_from_record"]

_KINDS: dict[str, type[Mixing]] = {
    "Scaled": Scaled,
    "Affine": Affine,
    "Triangular": Triangular,
    "ConditionallyAffine": ConditionallyAffine,
}
_AROUND: dict[str, type[Angles] | type[Bounded]] = {"Angles": Angles, "Bounded": Bounded}  # a triangular one


def mixing_from_record(kind: str, tensors: dict[str, Any]) -> Mixing:
    """The mixing of that class name from its :meth:`Mixing.tensors`.

    >>> import torch
    >>> made = Affine(torch.zeros(1), torch.ones(1, 1))
    >>> mixing_from_record("Affine", made.tensors()).matrix
    tensor([[1.]])
    """
    if kind not in _AROUND:
        return _KINDS[kind](**tensors)
    prefix = "inner."
    inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    own = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    return _AROUND[kind](Triangular(**inner), **own)
