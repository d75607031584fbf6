"""Bases from their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Basis
from .categorical import Categorical
from .fourier import Fourier
from .hermite import Hermite
from .legendre import Legendre
from .piecewise import Piecewise

__all__ = ["from_spec"]

_FAMILIES: dict[str, type[Basis]] = {
    family.__name__: family for family in (Legendre, Fourier, Hermite, Piecewise, Categorical)
}


def from_spec(spec: Mapping[str, Any]) -> Basis:
    """The basis that :meth:`ttvi.tt.Basis.spec` described.

    Raises:
        ValueError: the family is unknown.

    >>> from_spec({"family": "Legendre", "lower": 0.0, "upper": 1.0, "size": 4})
    Legendre(lower=0.0, upper=1.0, size=4)
    """
    arguments = dict(spec)
    family = arguments.pop("family", None)
    if family not in _FAMILIES:
        raise ValueError(
            f"from_spec: expected one of {sorted(_FAMILIES)}; got {family!r}. Was it saved by a newer version?"
        )
    return _FAMILIES[family](**arguments)
