"""Saved densities and functions: safetensors with a JSON header, written atomically, never pickled."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingExtraError
from .basis import from_spec
from .squared import SquaredTrain
from .train import TensorTrain

__all__ = ["density_header", "density_parts", "load_density", "load_tensors", "save_density", "save_tensors"]

SCHEMA = 1


def save_tensors(path: Any, tensors: dict[str, Tensor], header: dict[str, Any], kind: str) -> None:
    """Write tensors and a header; an interrupted write leaves the old file, or none."""
    try:
        from safetensors.torch import save
    except ImportError:
        raise MissingExtraError("save", "safetensors", "io") from None
    target = Path(path)
    payload = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(payload, metadata={"ttvi": json.dumps({"kind": kind, "schema": SCHEMA, **header})})
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_tensors(path: Any, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        ValueError: it is another kind of file, or of a newer schema.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtraError("load", "safetensors", "io") from None
    if not Path(path).is_file():
        raise FileNotFoundError(f"load: expected a saved file at {path}; there is none. Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ttvi", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except SafetensorError as error:
        raise ValueError(
            f"load: expected a safetensors file at {path}; got something else ({error}). Was the copy complete?"
        ) from error
    if header.get("kind") != kind:
        raise ValueError(
            f"load: expected a saved {kind} at {path}; got {header.get('kind')!r}. Load it with its own class."
        )
    if header["schema"] > SCHEMA:
        raise ValueError(f"load: expected schema {SCHEMA} or older; got {header['schema']}. Upgrade ttvi.")
    return tensors, header


def density_header(square: SquaredTrain, batch_shape: torch.Size) -> dict[str, Any]:
    """What a density is besides its tensors: bases (``null`` for latent modes), gauge and batch shape."""
    bases = [None if b is None else b.spec() for b in square.bases]
    return {"bases": bases, "canonical": square.canonical, "batch_shape": list(batch_shape)}


def density_parts(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[SquaredTrain, Tensor, torch.Size]:
    """The square, its share of the reference and the batch shape, from a header and the tensors."""
    bases = tuple(None if spec is None else from_spec(spec) for spec in header["bases"])
    train = TensorTrain([tensors[f"cores.{k}"] for k in range(len(bases))], tensors["log_scale"])
    return SquaredTrain(train, bases, header["canonical"]), tensors["log_share"], torch.Size(header["batch_shape"])


def save_density(path: Any, tensors: dict[str, Tensor], square: SquaredTrain, batch_shape: torch.Size) -> None:
    """Write a density."""
    save_tensors(path, tensors, density_header(square, batch_shape), "TTDensity")


def load_density(path: Any) -> tuple[SquaredTrain, Tensor, torch.Size]:
    """Read a density."""
    tensors, header = load_tensors(path, "TTDensity")
    return density_parts(header, tensors)
