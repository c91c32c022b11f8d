"""Between the hospital's own commands and its serving agent: a Unix socket in the site's folder (mode 0600), a line of JSON each
way. What is decided is in the inbox; the socket only says that there is something new, and asks how things stand."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from unisono.errors import NetworkError, ProtocolError, UnisonoError
from unisono.federation.storage import storage

LINE_BYTES = 64 * 1024
PATIENCE_S = 1000.0
"""A study is taken up while the command waits: its data are read."""
_SPEAK_S = 10.0

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


async def listen(path: Path, answer: Answer) -> asyncio.AbstractServer:
    """Answer commands until the server is closed. The folder must be this process's own (`AgentFolder.held`): a socket that
    lies there was left by an agent that was killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SPEAK_S):
                line = await reader.readline()
            found = await _answered(line, answer)
            writer.write(json.dumps(found).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError, TimeoutError):
            pass  # a command that went away, or said too much or nothing: there is nobody to tell
        finally:
            writer.close()

    bound = _bound(path)
    return await asyncio.start_unix_server(serve, sock=bound, limit=LINE_BYTES)


def _bound(path: Path) -> socket.socket:
    with storage(path, "agent's socket"):
        path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(str(path))
        path.chmod(0o600)
    return bound


async def _answered(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        command = json.loads(line)
        if not isinstance(command, dict):
            raise TypeError("not a command")
        return {"ok": await answer(command)}
    except UnisonoError as error:
        return {"error": error.to_dict()}
    except (ValueError, TypeError, KeyError):
        wrong = ProtocolError(
            "The agent does not know this command.",
            rule="message-format",
            remedy="Agent and command are of different versions of Unisono: start the agent anew.",
        )
        return {"error": wrong.to_dict()}


def ask(path: Path, command: dict[str, Any], patience_s: float = PATIENCE_S) -> dict[str, Any] | None:
    """The serving agent's answer; None if no agent serves. Raises the agent's error; `NetworkError` if it does not answer."""
    if not hasattr(socket, "AF_UNIX"):
        return None  # and no agent: see `serve`
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(patience_s)
        try:
            line.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise _silent(path) from error
        try:
            line.sendall(json.dumps(command).encode() + b"\n")
            with line.makefile("rb") as stream:
                content = json.loads(stream.readline(LINE_BYTES))
        except (OSError, ValueError) as error:
            raise _silent(path) from error
    if "error" in content:
        raise UnisonoError.from_dict(content["error"])
    found: dict[str, Any] = content["ok"]
    return found


def _silent(path: Path) -> NetworkError:
    return NetworkError(
        f"The agent at {path} does not answer.",
        rule="agent-silent",
        remedy="What was decided is written down, and holds. Look at the agent's log.jsonl; start it anew if it hangs.",
    )
