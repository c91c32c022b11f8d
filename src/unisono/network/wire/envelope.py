"""A command in its envelope: which version of the wire it is in, whose software wrote it, and one packed tree.

The answer to a command is a bare tree: it is in the version that was asked in, or it is a refusal, which every version reads.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from unisono.errors import ProtocolError
from unisono.federation.tree import Tree, pack, unpack
from unisono.network.wire.unisono_pb2 import Packed
from unisono.network.wire.version import PROTOCOL, same_protocol
from unisono.version import VERSION

RULE = "unisono-rule"
"""The trailing metadata in which the coordinator names the rule by which it refused a connection."""


def command(tree: Tree) -> Packed:
    """A command that is ready to be sent. `ProtocolError` for a tree that does not travel."""
    return Packed(tree=pack(tree), protocol=PROTOCOL, software=VERSION)


def command_of(data: bytes) -> Tree:
    """The tree of a command that came. `NetworkError` (``protocol-version``) if it is in another version of the wire,
    `ProtocolError` if it is none."""
    try:
        packed = Packed.FromString(data)
    except DecodeError as error:
        raise ProtocolError(
            "A command cannot be read.", rule="message-format", remedy="Both ends must run the same version of Unisono."
        ) from error
    same_protocol(packed.protocol, packed.software, "command")
    return unpack(packed.tree)
