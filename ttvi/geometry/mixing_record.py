"""Mixings by name, for files."""

from __future__ import annotations

from typing import Any

from .conditional import ConditionallyAffine
from .mixing import Affine, Mixing, Scaled, Triangular

__all__ = ["mixing_from_record"]

_KINDS: dict[str, type[Mixing]] = {
    "Scaled": Scaled,
    "Affine": Affine,
    "Triangular": Triangular,
    "ConditionallyAffine": ConditionallyAffine,
}


def mixing_from_record(kind: str, tensors: dict[str, Any]) -> Mixing:
    """The mixing of that class name from its :meth:`Mixing.tensors`.

    >>> import torch
    >>> made = Affine(torch.zeros(1), torch.ones(1, 1))
    >>> mixing_from_record("Affine", made.tensors()).matrix
    tensor([[1.]])
    """
    return _KINDS[kind](**tensors)
