"""Any composed distribution as a JSON-able description and a flat table of tensors, and back.

A class that wants to be kept says three things about itself: numbers and words (its *spec*), *tensors*, and *children*,
other objects of the same kind. `pack` walks the tree, `unpack` rebuilds it. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .tt.density import TTDensity
from .tt.storage import load_tensors, save_tensors

__all__ = ["cast", "from_json", "load_record", "pack", "register", "save_record", "to_json", "unpack"]

Cls = TypeVar("Cls", bound=type)
_CLASSES: dict[str, Any] = {}
SCHEMA = 1
_FILE = "record.json"
_SEPARATOR = "/"
_FLOAT = "$float"


def register(name: str) -> Callable[[Cls], Cls]:
    """Class decorator: objects of the class can be packed, under a name that files keep for ever.

    The class has two methods. ``_to_record(self)`` returns ``(spec, tensors, children)``: a JSON-able dict, a dict of
    tensors, and a dict of registered objects, lists of them, or None. ``_from_record(cls, spec, tensors, children)`` is a
    class method that makes an equal object from them; the tensors may arrive in another dtype or on another device.

    Args:
        name: unique; independent of where the class lives, so that files outlive a move.

    Raises:
        TypeError: the class lacks one of the two methods.
        ValueError: another class has the name.

    >>> @register("doctest scale")
    ... class Scale:
    ...     def __init__(self, factor):
    ...         self.factor = factor
    ...     def _to_record(self):
    ...         return {}, {"factor": self.factor}, {}
    ...     @classmethod
    ...     def _from_record(cls, spec, tensors, children):
    ...         return cls(tensors["factor"])
    >>> spec, tensors = pack(Scale(torch.ones(2)))
    >>> spec
    {'kind': 'doctest scale', 'spec': {}, 'children': {}}
    >>> unpack(spec, tensors).factor
    tensor([1., 1.])
    """

    def decorate(cls: Cls) -> Cls:
        for method in ("_to_record", "_from_record"):
            if not callable(getattr(cls, method, None)):
                raise TypeError(f"register: expected a class with `{method}`; got {cls.__name__}. Write that method.")
        other = _CLASSES.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):  # a reload may come again
            raise ValueError(
                f"register: expected a new name; got {name!r}, which {other.__name__} has. Choose another."
            )
        _CLASSES[name] = cls
        cls._record_name = name  # type: ignore[attr-defined]
        return cls

    return decorate


def pack(obj: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Take an object apart.

    Args:
        obj: of a registered class.

    Returns:
        A JSON-able description ``{"kind", "spec", "children"}``, and every tensor of the tree by a name with a path,
        ``"base/cores.0"`` or ``"parts/1/weight"``.

    Raises:
        TypeError: the class of ``obj``, or of a child, is not registered.
    """
    cls = type(obj)
    name = vars(cls).get("_record_name")  # not inherited: a subclass holds more than its parent writes
    if name is None or _CLASSES.get(name) is not cls:
        raise TypeError(
            f"pack: expected an object of a registered class {sorted(_CLASSES)}; got {cls.__name__}. "
            "Give the class `_to_record` and `_from_record`, and decorate it with ttvi.records.register."
        )
    spec, own, children = obj._to_record()
    tensors: dict[str, Tensor] = {}
    for key, value in own.items():
        assert _SEPARATOR not in key, key
        tensors[key] = value
    packed: dict[str, Any] = {}
    for key, child in children.items():
        assert _SEPARATOR not in key, key
        packed[key] = _pack_child(child, key, tensors)
    return {"kind": name, "spec": dict(spec), "children": packed}, tensors


def _pack_child(child: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The description of a child, a list of them, or None; its tensors are added to `tensors`."""
    if child is None:
        return None
    if isinstance(child, list | tuple):
        return [_pack_child(item, f"{path}{_SEPARATOR}{i}", tensors) for i, item in enumerate(child)]
    spec, inner = pack(child)
    tensors.update({f"{path}{_SEPARATOR}{key}": value for key, value in inner.items()})
    return spec


def unpack(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Put together what `pack` took apart.

    Args:
        spec: the description.
        tensors: every tensor of the tree, in any dtype and on any device.

    Raises:
        ValueError: the class is unknown here, or tensors are missing.
    """
    kind = spec.get("kind")
    if kind not in _CLASSES:
        raise ValueError(
            f"unpack: expected one of {sorted(_CLASSES)}; got {kind!r}. "
            "Import the module that registers it, or upgrade ttvi."
        )
    own = {key: value for key, value in tensors.items() if _SEPARATOR not in key}
    children = {key: _unpack_child(child, key, tensors) for key, child in spec["children"].items()}
    try:
        return _CLASSES[kind]._from_record(spec["spec"], own, children)
    except KeyError as error:
        raise ValueError(
            f"unpack: expected a complete record of {kind}; got one without {error}. Was the file written by another version?"
        ) from error


def _unpack_child(child: Any, path: str, tensors: Mapping[str, Tensor]) -> Any:
    if child is None:
        return None
    if isinstance(child, list):
        return [_unpack_child(item, f"{path}{_SEPARATOR}{i}", tensors) for i, item in enumerate(child)]
    prefix = path + _SEPARATOR
    inner = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return unpack(child, inner)


def cast(
    tensors: Mapping[str, Tensor], *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Floating-point tensors in another dtype, all of them on another device; None leaves things as they are."""
    return {
        key: value.to(dtype=dtype if value.is_floating_point() else None, device=device)
        for key, value in tensors.items()
    }


def to_json(value: Any) -> Any:
    """Lists for tuples, and infinities and NaN in a form that every reader of JSON accepts.

    >>> to_json({"k": (1, float("inf"))})
    {'k': [1, {'$float': 'inf'}]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`, tuples having become lists.

    >>> from_json([{"$float": "-inf"}, 2.0])
    [-inf, 2.0]
    """
    if isinstance(value, dict):
        if set(value) == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


def save_record(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write an object of a registered class as a directory: ``record.json`` and one safetensors file (extra ``io``).

    The JSON file names the tensors it belongs to, and replaces its predecessor in one step once they are on disk: an
    interrupted save leaves the old object, or none. Other files in the directory are left alone.

    Args:
        obj: what to keep.
        path: the directory, made if need be.

    Raises:
        TypeError: the class of ``obj``, or of a part of it, is not registered.
        ValueError: ``path`` is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save: expected a directory; got the file {folder}. Choose another path.")
    record, tensors = pack(obj)
    name = f"tensors-{secrets.token_hex(6)}.safetensors"
    header = {"schema": SCHEMA, "tensors": name, "record": to_json(record)}
    text = json.dumps(header, indent=1, allow_nan=False)
    old = _tensors_of(folder)
    fresh = folder / f".{name}.json"
    try:
        save_tensors(folder / name, tensors, {}, "record")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, folder / _FILE)
    except BaseException:
        fresh.unlink(missing_ok=True)
        (folder / name).unlink(missing_ok=True)
        raise
    if old is not None:
        (folder / old).unlink(missing_ok=True)


def load_record(
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    exact: tuple[str, ...] = (),
) -> Any:
    """Read what `save_record` wrote.

    Args:
        path: the directory.
        kind: the name of the class that is expected; any when None.
        dtype, device: what to convert to; None keeps the saved dtype, on the CPU.
        exact: tensors of the outermost object that keep their dtype.

    Raises:
        FileNotFoundError: there is no record in the directory.
        ValueError: the files are damaged, of another kind, or of a newer schema.
    """
    folder = Path(path)
    if not (folder / _FILE).is_file():
        raise FileNotFoundError(f"load: expected a directory with {_FILE} at {folder}; there is none. Check the path.")
    header = _read(folder)
    record = from_json(header["record"])
    if kind is not None and record["kind"] != kind:
        raise ValueError(f"load: expected a saved {kind} in {folder}; got a {record['kind']}. Check the path.")
    saved, _ = load_tensors(folder / header["tensors"], "record")
    tensors = cast(saved, dtype=dtype, device=device) | {name: saved[name].to(device=device) for name in exact}
    return unpack(record, tensors)


def _read(folder: Path) -> dict[str, Any]:
    """The JSON file of a record, checked.

    Raises:
        ValueError: it is something else, or of a newer schema.
    """
    try:
        header = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        schema = int(header["schema"])
        # A name with a path in it would reach files outside the directory.
        complete = schema > SCHEMA or ("record" in header and Path(header["tensors"]).name == header["tensors"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load: expected JSON in {folder / _FILE}; got {error}. Was the copy complete?") from error
    if schema > SCHEMA:
        raise ValueError(f"load: expected schema {SCHEMA} or older; got {schema}. Upgrade ttvi.")
    if not complete:
        raise ValueError(f"load: expected a record in {folder / _FILE}; got something else. Check the path.")
    return header


def _tensors_of(folder: Path) -> str | None:
    """Name of the tensors file that the record in a directory belongs to, if there is a record."""
    try:
        return str(_read(folder)["tensors"])
    except (OSError, ValueError):
        return None


register("TTDensity")(TTDensity)
