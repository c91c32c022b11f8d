"""An upload on its way in: chunks are staged in a file and count for nothing until they are whole (rule 9).

What is staged is then read as a memory-mapped vector, so that the coordinator never holds a site's upload in memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from unisono.errors import ProtocolError
from unisono.protection.prg import Words


class Upload:
    """One site's masked words, arriving in chunks, in order. length: words that are expected. folder: where to stage."""

    def __init__(self, site: str, length: int, dtype: DTypeLike, folder: Path) -> None:
        self.site = site
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.expected = length * self.dtype.itemsize
        self.received = 0
        handle, name = tempfile.mkstemp(prefix="upload-", dir=folder)
        self._path = Path(name)
        self._file = os.fdopen(handle, "r+b", buffering=0)

    def append(self, offset: int, chunk: bytes | memoryview) -> None:
        """The next bytes. `ProtocolError` for a gap, an overlap, or more than was announced; what came before stays."""
        if offset != self.received or offset + len(chunk) > self.expected:
            raise ProtocolError(
                f"A chunk of {self.site}'s upload is out of place: {len(chunk)} bytes at {offset}, {self.received} of "
                f"{self.expected} had come.",
                rule="half-upload",
                remedy=f"Nothing of it was added. Send on from byte {self.received}.",
            )
        self._file.write(chunk)
        self.received += len(chunk)

    @property
    def complete(self) -> bool:
        """Whether every byte has come. Whether they are the right ones, the checksum says."""
        return self.received == self.expected

    def words(self) -> Words:
        """The words, as a read-only memory map. `ProtocolError` while bytes are missing."""
        if not self.complete:
            raise ProtocolError(
                f"{self.received} of {self.expected} bytes of {self.site}'s part have come.",
                rule="half-upload",
                remedy=f"Nothing of it was added. Send on from byte {self.received}.",
            )
        if not self.expected:
            return np.empty(0, self.dtype)
        return np.memmap(self._path, self.dtype, "r")

    def discard(self) -> None:
        """Remove what was staged; done by leaving the `with` block."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
