"""An append-only file of evaluations: cache, resume file and training set of a fit.

A header, then blocks. A block holds a batch: its head (magic, kind, rows, check sum), points, values, a byte per point that
says whether the function raised, and gradients where there are some; or a note in JSON. A block that was torn by a
killed process fails its check and is dropped.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calling import Answer

__all__ = ["EvaluationLog"]

MAGIC = b"ttvi-evaluations"
SCHEMA = 1
HEADER = struct.Struct("<16sII32s")  # magic, schema, dim, fingerprint
HEAD = struct.Struct("<4sIQI")  # magic, kind, rows (or bytes of a note), crc32 of the payload
BLOCK = b"EVAL"
VALUES, GRADIENTS, NOTE = 0, 1, 2


def _unwritable(directory: Any, failure: OSError) -> ValueError:
    reason = failure.strerror or type(failure).__name__
    return ValueError(
        f"fit: expected `checkpoint` to be a place to write to; got {directory} ({reason}). Name another place."
    )


class EvaluationLog:
    """The log in a directory; opened for appending, after what is whole of it has been read.

    Args:
        directory: where it lies; made where it is missing.
        dim: number of entries of a point.
        fingerprint: 32 bytes that tell one support from another.

    Raises:
        ValueError: there is a log of another dimension, support or schema, or another kind of file.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> log = EvaluationLog(folder, dim=1, fingerprint=bytes(32))
    >>> log.append(torch.zeros(1, 1, dtype=torch.float64), Answer(torch.ones(1, dtype=torch.float64), torch.tensor([False])))
    >>> log.close()
    >>> [answer.values for _, answer in EvaluationLog(folder, dim=1, fingerprint=bytes(32)).records]
    [tensor([1.], dtype=torch.float64)]
    """

    NAME = "evaluations.ttvi"

    def __init__(self, directory: Any, *, dim: int, fingerprint: bytes) -> None:
        self.path = Path(directory) / self.NAME
        self.dim = dim
        self.records: list[tuple[Tensor, Answer]] = []
        self.notes: dict[str, Any] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(
                f"fit: expected `checkpoint` to be a directory; got the file {directory}. Name another place."
            ) from None
        except OSError as failure:
            raise _unwritable(directory, failure) from failure
        whole = self._read(fingerprint) if self.path.exists() else 0
        try:
            self._file = open(self.path, "r+b" if whole else "wb")  # noqa: SIM115  (open as long as the fit runs)
        except OSError as failure:
            raise _unwritable(directory, failure) from failure
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._file.write(HEADER.pack(MAGIC, SCHEMA, dim, fingerprint))
            self._file.flush()

    def append(self, x: Tensor, answer: Answer) -> None:
        """Write a batch, and flush it: a killed process loses nothing that was appended."""
        parts = [x, answer.values] + ([] if answer.gradients is None else [answer.gradients])
        floats = [part.detach().cpu().numpy().astype("<f8").tobytes() for part in parts]
        floats.insert(2, answer.failed.cpu().numpy().astype(np.uint8).tobytes())
        self._write(VALUES if answer.gradients is None else GRADIENTS, len(x), b"".join(floats))

    def note(self, **facts: Any) -> None:
        """Write something that JSON can hold."""
        self.notes |= facts
        payload = json.dumps(facts).encode()
        self._write(NOTE, len(payload), payload)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: int, rows: int, payload: bytes) -> None:
        self._file.write(HEAD.pack(BLOCK, kind, rows, zlib.crc32(payload)) + payload)
        self._file.flush()

    def _read(self, fingerprint: bytes) -> int:
        """Read whole blocks; returns where they end."""
        data = self.path.read_bytes()
        if len(data) < HEADER.size and MAGIC.startswith(data[:16]):
            return 0  # killed while the header was being written
        magic, schema, dim, found = HEADER.unpack_from(data) if len(data) >= HEADER.size else (b"", 0, 0, b"")
        place = f"at {self.path}"
        if magic != MAGIC:
            raise ValueError(f"fit: expected an evaluation log {place}; got another file. Name another checkpoint.")
        if schema > SCHEMA:
            raise ValueError(f"fit: expected a log of schema {SCHEMA} or older {place}; got {schema}. Upgrade ttvi.")
        if dim != self.dim:
            raise ValueError(
                f"fit: expected a log of dimension {self.dim} {place}; got one of dimension {dim}. Name another checkpoint."
            )
        if found != fingerprint:
            raise ValueError(
                f"fit: expected a log of the same support {place}; got one of another support. Name another checkpoint."
            )
        end = HEADER.size
        for kind, rows, payload in self._blocks(memoryview(data)):
            end += HEAD.size + len(payload)
            if kind == NOTE:
                self.notes |= json.loads(bytes(payload))
            else:
                self.records.append(self._unpacked(kind, rows, payload))
        return end

    def _blocks(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        at = HEADER.size
        while at + HEAD.size <= len(data):
            magic, kind, rows, check = HEAD.unpack_from(data, at)
            width = 1 if kind == NOTE else 8 * self.dim * (1 + (kind == GRADIENTS)) + 9
            at += HEAD.size
            payload = data[at : at + rows * width]
            if magic != BLOCK or len(payload) < rows * width or zlib.crc32(payload) != check:
                return
            yield kind, rows, payload
            at += rows * width

    def _unpacked(self, kind: int, rows: int, payload: memoryview) -> tuple[Tensor, Answer]:
        size = rows * self.dim

        def floats(at: int, count: int) -> Tensor:
            return torch.from_numpy(np.frombuffer(payload, "<f8", count, at).astype(np.float64))

        x, values = floats(0, size), floats(8 * size, rows)
        at = 8 * (size + rows)
        failed = torch.from_numpy(np.frombuffer(payload, np.uint8, rows, at).astype(bool))
        gradients = floats(at + rows, size).reshape(rows, self.dim) if kind == GRADIENTS else None
        return x.reshape(rows, self.dim), Answer(values, failed, gradients)
