"""Where the `unisono` command begins. It imports nothing large, so that Ctrl-C is answered also while the rest is imported."""

from __future__ import annotations

import sys

STOPPED = "\nStopped. Everything opened so far is kept: the same command goes on where it stopped."
INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""


def main(arguments: list[str] | None = None) -> None:
    """The installed command; exit codes as in `unisono.cli.main`."""
    try:
        from unisono.cli.main import main as commands

        commands(arguments)
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)  # noqa: T201  (rich may not be imported yet)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
