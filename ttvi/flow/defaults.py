"""Stacks of transforms that suit a mixture of real, circular and discrete coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .autoregressive import InverseAutoregressive, MaskedAutoregressive
from .conditioner import Kind, parse_kinds, seeded_generator
from .coupling import AdditiveCoupling, AffineCoupling, Coupling
from .halves import cutting_halves, moving_halves
from .neighbours import nearness, neighbours
from .residual import Residual
from .spline import SplineCoupling
from .transform import Transform

__all__ = ["default_transforms"]

COUPLINGS: dict[str, type[Coupling]] = {
    "additive": AdditiveCoupling,
    "affine": AffineCoupling,
    "spline": SplineCoupling,
}

LOCAL_HIDDEN = (32, 32)


def default_transforms(
    dim: int,
    *,
    kinds: Sequence[Kind] | None = None,
    num_layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    context_dim: int = 0,
    kind: str = "spline",
    dependence: Tensor | None = None,
    loc: object = None,
    scale: object = None,
    bins: int = 8,
    bound: float = 5.0,
    activation: str = "silu",
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> list[Transform]:
    """Layers that together move every coordinate that can move, and start as the identity.

    Discrete coordinates stay and are conditioned on. Intervals and circles move by splines that map them onto
    themselves: where ``kind`` is another one, spline layers for these follow the others.

    Args:
        dim: number of coordinates.
        kinds: per coordinate ``"real"``, ``("interval", lower, upper)``, ``("circle", lower, upper)`` or
            ``("discrete", lowest, highest)``.
        num_layers: number of layers; of each sort, where intervals and circles need their own.
        hidden: widths of the hidden layers.
        context_dim: number of conditioning values.
        kind: ``"spline"``, ``"affine"``, ``"additive"``, ``"maf"``, ``"iaf"`` or ``"residual"``.
        dependence: how strongly coordinates act on each other, shape (dim, dim); couplings then move halves that cut the most
            of it (:func:`.halves.cutting_halves`), else halves by rank. Where each acts on few others, every one has a network of
            width 32 and 32 of its own, that sees those near it alone (:func:`.neighbours.neighbours`).
        loc: typical location per coordinate.
        scale: typical spread per coordinate; the splines' boxes are ``loc ± bound·scale``.
        bins: pieces of each spline.
        bound: half-width of the splines' boxes, in units of ``scale``.
        activation: activation of the networks.
        generator: source of the initial weights; a fixed seed without one.
        dtype: floating type of parameters and buffers.

    Returns:
        transforms, the first to be applied to the base's draws first; none where nothing can move.

    Raises:
        ValueError: ``kind`` is unknown or an argument does not fit.

    >>> [type(part).__name__ for part in default_transforms(3, num_layers=2)]
    ['SplineCoupling', 'SplineCoupling']
    """
    caller = "default_transforms"
    parsed = parse_kinds(kinds, dim, caller)
    known = [*COUPLINGS, "maf", "iaf", "residual"]
    if kind not in known:
        raise ValueError(f"{caller}: expected a kind among {', '.join(known)}; got {kind!r}. Take 'spline'.")
    shared: dict[str, Any] = {
        "kinds": parsed,
        "loc": loc,
        "scale": scale,
        "hidden": hidden,
        "activation": activation,
        "context_dim": context_dim,
        "generator": seeded_generator(generator),
        "dtype": dtype,
    }
    splines = {"bins": bins, "bound": bound, **shared}
    reals = [k for k, (name, _, _) in enumerate(parsed) if name == "real"]
    bounded = [k for k, (name, _, _) in enumerate(parsed) if name in ("interval", "circle")]
    if kind == "spline":
        return _layers(kind, dim, num_layers, sorted(reals + bounded), dependence, splines)
    first = _layers(kind, dim, num_layers, reals, dependence, shared)
    return first + _layers("spline", dim, num_layers, bounded, dependence, splines)


def _layers(
    kind: str, dim: int, number: int, moving: Sequence[int], dependence: Tensor | None, arguments: dict[str, Any]
) -> list[Transform]:
    """A stack of layers of one kind; none where nothing moves."""
    if not moving:
        return []
    if dependence is None or kind not in COUPLINGS:
        halves = [moving_halves(moving, n) for n in range(number)]
    else:
        halves = cutting_halves(dependence, moving, number)
        # What does not move has no second derivatives: nobody knows whom it acts on.
        near = nearness(dependence) if len(moving) == dim else None
        if near is not None:
            seen = [neighbours(near, half, dim) if len(half) < dim else None for half in halves]
            local = {**arguments, "hidden": LOCAL_HIDDEN}
            return [_layer(kind, dim, n, halves[n], {**local, "neighbours": seen[n]}) for n in range(number)]
    return [_layer(kind, dim, n, halves[n], arguments) for n in range(number)]


def _layer(kind: str, dim: int, number: int, moved: Sequence[int], arguments: dict[str, Any]) -> Transform:
    """Layer number ``number`` of a stack."""
    if kind == "residual":
        return Residual(dim, **{key: value for key, value in arguments.items() if key != "activation"})
    if kind in ("maf", "iaf"):
        # The chain turns round from layer to layer, so that every coordinate comes late in some of them.
        order = range(dim) if number % 2 == 0 else range(dim)[::-1]
        return (MaskedAutoregressive if kind == "maf" else InverseAutoregressive)(dim, order=order, **arguments)
    return COUPLINGS[kind](dim, moved=moved, **arguments)
