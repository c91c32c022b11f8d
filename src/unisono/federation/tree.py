"""Trees of numpy arrays and plain values: packed to bytes, unpacked without executing anything, and digested.

The one serialisation of Unisono: asks, opened sums and snapshots travel and are stored in it. A packed tree is a JSON
skeleton in which ``{"$array": k}`` stands for the k-th array, then the arrays' raw little-endian bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from unisono.errors import ProtocolError

Tree = Any
"""A number, string, boolean, None, numpy array, or a dict / list / tuple / dataclass of trees."""

_MAGIC = b"UNI1"
_SKELETON_LIMIT = 2**25
"""Bytes of everything but the arrays: what comes from outside must not keep the reader busy for long."""
_DTYPES = {name: np.dtype(name) for name in ("<f8", "<f4", "<i8", "<i4", "<u8", "<u4", "|u1", "|i1", "|b1")}
_PLAIN = frozenset({str, int, float, bool, type(None)})


def pack(tree: Tree) -> bytes:
    """The tree as bytes; equal trees give equal bytes (keys sorted, arrays C-ordered and little-endian).

    `ProtocolError` for what does not travel: other types, arrays of other dtypes, a number that is not finite (outside an
    array).
    """
    return b"".join(parts(tree))


def parts(tree: Tree) -> list[bytes | memoryview]:
    """What `pack` joins, without copying the arrays: the header with the skeleton, then each array's own bytes."""
    arrays: list[np.ndarray[Any, Any]] = []
    try:
        skeleton = _JSON.encode(_skeleton(tree, arrays)).encode()
        if len(skeleton) > _SKELETON_LIMIT:
            raise ValueError("too many plain values: numbers belong in arrays")
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(
            f"A value cannot be sent or stored: {error}.",
            rule="tree-format",
            remedy="Numbers must be finite; only numbers, texts, arrays, and lists and mappings of these travel. "
            "A fit that diverges sends such numbers: look for separation, or for min/max declared far too wide.",
        ) from error
    skeleton += b" " * (-len(skeleton) % 8)  # arrays begin where processors like them to
    header = _MAGIC + struct.pack("<I", len(skeleton)) + skeleton
    return [header, *(a.reshape(-1).view(np.uint8).data for a in arrays if a.size)]


def unpack(data: bytes | memoryview) -> Tree:
    """The tree that `pack` packed: dicts, lists, numbers and read-only arrays, which look into `data` and are not copies.
    `ProtocolError` on anything else."""
    try:
        data = memoryview(data).toreadonly()
        if data[:4] != _MAGIC:
            raise ValueError("not a packed tree")
        (length,) = struct.unpack("<I", data[4:8])
        if length > _SKELETON_LIMIT:
            raise ValueError("too many plain values")
        skeleton = _READER.decode(str(data[8 : 8 + length], "ascii"))
        return _Reader(data, 8 + length).tree(skeleton)
    except (ValueError, KeyError, TypeError, OverflowError, struct.error, RecursionError) as error:
        raise ProtocolError(
            f"A stored or received tree of {len(data)} bytes cannot be read: {error}.",
            rule="tree-format",
            remedy="The bytes were truncated or altered; ask for the message again, or restore the file from a back-up.",
        ) from error


def digest(tree: Tree) -> str:
    """SHA-256 of the packed tree, hexadecimal."""
    found = hashlib.sha256()
    for part in parts(tree):
        found.update(part)
    return found.hexdigest()


def _skeleton(tree: Tree, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if type(tree) in _PLAIN:  # most of every tree, and so first
        return tree
    if isinstance(tree, np.ndarray):
        array = np.ascontiguousarray(tree)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype.str not in _DTYPES:
            raise TypeError(f"arrays of dtype {array.dtype} do not travel")
        arrays.append(array)
        return {"$array": len(arrays) - 1, "dtype": array.dtype.str, "shape": list(tree.shape)}
    if isinstance(tree, np.generic):
        return tree.item()
    if type(tree) is not dict and dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    if isinstance(tree, dict | Mapping):
        if "$array" in tree:
            raise TypeError("the key '$array' is reserved")
        if set(map(type, tree)) - {str}:
            raise TypeError("the keys of a mapping are texts")
        return {key: _skeleton(tree[key], arrays) for key in sorted(tree)}
    if isinstance(tree, list | tuple):
        return [_skeleton(item, arrays) for item in tree]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"a {type(tree).__name__} does not travel")


def _no_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text}")
    return value


_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
"""Of skeletons, whose keys are sorted."""
_READER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


class _Reader:
    """Reads arrays off the tail of a packed tree, in order, checking every length."""

    def __init__(self, data: memoryview, offset: int) -> None:
        self.data = data
        self.offset = offset

    def tree(self, skeleton: Any) -> Tree:
        value = self._read(skeleton)
        if self.offset != len(self.data):
            raise ValueError(f"{len(self.data) - self.offset} bytes too many")
        return value

    def _read(self, skeleton: Any) -> Tree:
        if type(skeleton) in _PLAIN:
            return skeleton
        if isinstance(skeleton, dict):
            if "$array" in skeleton:
                return self._array(skeleton)
            return {key: self._read(value) for key, value in skeleton.items()}
        if isinstance(skeleton, list):
            return [self._read(item) for item in skeleton]
        return skeleton

    def _array(self, header: dict[str, Any]) -> np.ndarray[Any, Any]:
        dtype = _DTYPES[header["dtype"]]
        shape = tuple(header["shape"])
        if not all(type(s) is int and s >= 0 for s in shape):
            raise ValueError("a shape that is not whole numbers")
        size = math.prod(shape)
        end = self.offset + size * dtype.itemsize
        if end > len(self.data):
            raise ValueError("truncated array")
        array = np.frombuffer(self.data, dtype, size, self.offset).reshape(shape)
        self.offset = end
        return array
