"""`unisono`: the commands, and the one place where errors become words and exit codes."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import typer

from unisono import __version__
from unisono.cli.console import errors
from unisono.cli.entry import INTERRUPTED, STOPPED
from unisono.errors import UnisonoError

app = typer.Typer(
    help="Federated learning for hospitals in which only sums leave a hospital.\n\nBegin with: unisono demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_NOUNS = ("study", "site", "coordinator", "authority", "simulate")
_VERBS = ("demo", "run", "compare", "predict", "report", "verify", "methods")
_registered: set[str] = set()


def _register(arguments: Sequence[str]) -> None:
    """Put the command that is meant under `unisono`; all of them where that is not clear, and for help. A hospital's short commands
    need not wait until everything else is imported."""
    meant = next((word for word in arguments if not word.startswith("-")), "")
    everything = (*_NOUNS, *_VERBS)
    for name in [meant] if meant in everything else everything:
        if name not in _registered:
            _registered.add(name)
            module = import_module(f"unisono.cli.{name}")
            if name in _NOUNS:
                app.add_typer(module.app, name=name)
            else:
                app.command(name)(getattr(module, name))


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    """Federated learning for hospitals in which only sums leave a hospital."""
    if show:
        typer.echo(f"unisono {__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Exit codes: 0 done, 1 refused or failed with a reason, 2 wrong usage, 130 interrupted."""
    try:
        _register(sys.argv[1:] if arguments is None else arguments)
        code = app(arguments, standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer's newer versions catch Ctrl-C themselves, and say nothing
            errors.print(STOPPED)
        sys.exit(code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        errors.print(STOPPED)
        sys.exit(INTERRUPTED)
    except UnisonoError as error:
        from unisono.report.terminal import error_panel

        errors.print(error_panel(error))
        sys.exit(1)
    except Exception as error:  # noqa: BLE001  (the last resort: a fault of ours, told without a traceback)
        if hasattr(error, "show"):  # wrong usage: typer's exceptions are click's or its own, by version
            error.show()
            sys.exit(2)
        errors.print(f"A fault in Unisono itself ({type(error).__name__}). Nothing was sent because of it.")
        place = f"The place in the code is in {_fault_file()}"
        errors.print(f"{place}; please report it, after checking that it shows no data.", markup=False)
        sys.exit(70)


def _fault_file() -> Path:
    handle, name = tempfile.mkstemp(prefix="unisono-fault-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join(traceback.format_tb(sys.exc_info()[2])))  # places only: the message could hold a value
    return Path(name)


if __name__ == "__main__":
    main()
