"""The gRPC library, imported where it is first used: it belongs to an extra."""

from __future__ import annotations

import os
from typing import Any

from unisono.errors import MissingExtra


def grpc_() -> Any:
    """The module, with `grpc.aio`. `MissingExtra` if it is not installed."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines (strangers' handshakes) would fill the terminal
    try:
        import grpc
        import grpc.aio
    except ImportError as error:
        raise MissingExtra(
            "The network needs gRPC, which is not installed.",
            rule="missing-extra",
            remedy="Install it with: pip install 'unisono[network]'.",
        ) from error
    return grpc
