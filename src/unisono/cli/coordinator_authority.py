"""`unisono coordinator pending` and `accept`: what is carried to the authority's key, where that is on another machine, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import out as console
from unisono.cli.coordinator_place import HOME, HomeOption, coordinator
from unisono.cli.shown import need_network, say, show_table, utc_now


def add_to(app: typer.Typer) -> None:
    """Put these commands under `unisono coordinator`."""
    for command in (pending, accept):
        app.command(command.__name__)(command)


def pending(
    out: Annotated[
        Path, typer.Option("--out", help="The file to carry to the machine with the authority's key.")
    ] = Path("requests.json"),
    home: HomeOption = HOME,
) -> None:
    """Write what waits for the authority's key, where that is on another machine: newcomers, renewals, the server's certificate.

    The file holds no secret. Carry it to the key (unisono authority sign), and its answers back (unisono coordinator accept).

    [bold]Example[/]: unisono coordinator pending --out /media/stick/requests.json --home /var/lib/unisono
    """
    need_network()
    from unisono.federation.storage import write_whole
    from unisono.network.coordinator.apart import pending as found_pending
    from unisono.network.enrolment.carried import asked

    found = coordinator(home)
    requests = found_pending(found, utc_now())
    if not requests.count:
        console.print("Nothing waits for the authority's key.", markup=False)
        return
    show_table(("wanted", "for", "key"), asked(requests, found.authority()), whole=("key",))
    write_whole(out.expanduser(), requests.encode() + b"\n", "requests")
    say(f"{requests.count} written to {out}", good=True)
    console.print(f"Where the key is: unisono authority sign {out.name} --home FOLDER", markup=False)


def accept(
    file: Annotated[Path, typer.Argument(help="What came back from the machine with the authority's key.")],
    home: HomeOption = HOME,
) -> None:
    """Take in what came back from the authority's key: certificates and invitations. The coordinator may serve meanwhile.

    [bold]Example[/]: unisono coordinator accept /media/stick/answers.json --home /var/lib/unisono
    """
    need_network()
    from unisono.network import pki
    from unisono.network.coordinator.apart import take
    from unisono.network.enrolment.carried import Answers

    taken = take(coordinator(home), Answers.read(pki.read_file(file.expanduser())), utc_now())
    for line in taken.done:
        say(line, good=True)
    for one in taken.refused:
        console.print(f"refused: {one.who}: {one.what} ({one.rule}) {one.remedy}", markup=False, soft_wrap=True)
    if any("has joined" in line for line in taken.done):
        console.print("Newcomers run the same `join` command again, and are in.", markup=False)
    if taken.refused:
        raise typer.Exit(1)
