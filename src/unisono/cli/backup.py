"""`unisono site backup|restore` and `unisono coordinator backup|restore`: one encrypted file, and a folder again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unisono.cli.console import out as console
from unisono.cli.coordinator_place import HOME as COORDINATOR
from unisono.cli.coordinator_place import HomeOption as CoordinatorOption
from unisono.cli.coordinator_place import coordinator, operator
from unisono.cli.shown import confirm, need_network, say, utc_now
from unisono.cli.site_network import HOME as SITE
from unisono.cli.site_network import HomeOption as SiteOption
from unisono.cli.site_network import Yes
from unisono.errors import NetworkError, UnisonoError
from unisono.federation.storage import storage

if TYPE_CHECKING:
    from unisono.network.backup.archive import Manifest

To = Annotated[Path, typer.Argument(metavar="FILE", help="The back-up to be written.")]
From = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The back-up. Without it: the folder itself was put back by other means."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file whose first line is the passphrase; it is asked for otherwise."),
]


def add_to_site(app: typer.Typer) -> None:
    """Put the site's commands under `unisono site`."""
    app.command("backup")(site_backup)
    app.command("restore")(site_restore)


def add_to_coordinator(app: typer.Typer) -> None:
    """Put the coordinator's under `unisono coordinator`."""
    app.command("backup")(coordinator_backup)
    app.command("restore")(coordinator_restore)


def site_backup(to: To, passphrase_file: PassphraseFile = None, home: SiteOption = SITE) -> None:
    """Back the site's folder up, while its agent serves or not: one file, encrypted. Datasets are not in it.

    [bold]Example[/]: unisono site backup /backup/padua.unisono --passphrase-file /root/passphrase --home /var/lib/unisono
    """
    need_network()
    from unisono.network.agent.folder import AgentFolder
    from unisono.network.backup import site

    manifest = site.back_up(
        AgentFolder(home.expanduser()), to.expanduser(), _passphrase(passphrase_file, new=True), utc_now()
    )
    _written(to, manifest)


def site_restore(
    file: From = None, passphrase_file: PassphraseFile = None, yes: Yes = False, home: SiteOption = SITE
) -> None:
    """Restore a site's folder. Every run that was going on is closed here, and the data steward decides on every study anew.

    [bold]Example[/]: unisono site restore /backup/padua.unisono --home /var/lib/unisono-restored
    """
    need_network()
    from unisono.network.agent.folder import AgentFolder
    from unisono.network.backup import site

    folder = AgentFolder(home.expanduser())
    if file is None:
        if not yes:
            confirm(f"Close every run and take back every approval in {folder.path}?")
        site.restore_in_place(folder, utc_now())
        say(f"{folder.path} is a restored site's folder now", good=True)
    else:
        manifest = site.restore(file.expanduser(), _passphrase(passphrase_file, new=False), folder, utc_now())
        say(f"{manifest.name} of {manifest.made:%Y-%m-%d %H:%M} UTC is restored in {folder.path}", good=True)
    console.print("Be sure that no other agent of this site serves from another copy. Then:", markup=False)
    console.print(f"  unisono site serve --home {home}", markup=False, soft_wrap=True)
    console.print("Studies that were approved wait for the data steward; researchers submit them again.", markup=False)
    console.print("What this site answered since is forgotten here: docs/backup.md says what to look at.", markup=False)


def coordinator_backup(
    to: To,
    passphrase_file: PassphraseFile = None,
    with_authority_key: Annotated[
        bool, typer.Option("--with-authority-key", help="Also the key that makes members, if it is kept in the folder.")
    ] = False,
    home: CoordinatorOption = COORDINATOR,
) -> None:
    """Back the coordinator up, while it serves or not: studies, members, journals, results and keys, in one encrypted file.

    [bold]Example[/]: unisono coordinator backup /backup/centre.unisono --home /var/lib/unisono
    """
    need_network()
    from unisono.network.backup import coordinator as backup

    found, passphrase = coordinator(home), _passphrase(passphrase_file, new=True)
    manifest = backup.back_up(
        found,
        to.expanduser(),
        passphrase,
        utc_now(),
        copied=_copied(home),
        authority_key=with_authority_key,
    )
    _written(to, manifest)
    if not with_authority_key:
        console.print("The authority's key (ca.key) is not in it: keep a copy of that apart.", markup=False)


def coordinator_restore(
    file: From = None,
    folder: Annotated[
        Path, typer.Option("--folder", "--home", help="Where to: a new or an empty folder.")
    ] = COORDINATOR,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
) -> None:
    """Restore a coordinator's folder. Unfinished runs are begun anew; open invitations are cancelled.

    [bold]Example[/]: unisono coordinator restore /backup/centre.unisono --folder /var/lib/unisono-restored
    """
    need_network()
    from unisono.network.backup import coordinator as backup
    from unisono.network.coordinator.home import CoordinatorHome

    home = CoordinatorHome(folder.expanduser())
    if file is None:
        if not yes:
            confirm(f"Begin every unfinished run in {home.path} anew?")
        backup.restore_in_place(home, utc_now())
        say(f"{home.path} is a restored coordinator's folder now", good=True)
    else:
        manifest = backup.restore(file.expanduser(), _passphrase(passphrase_file, new=False), home, utc_now())
        say(f"{manifest.name} of {manifest.made:%Y-%m-%d %H:%M} UTC is restored in {home.path}", good=True)
    console.print("Who was revoked since is a member again: revoke them before you serve. Open invitations are void.")
    if not (home.path / backup.AUTHORITY_KEY).exists():
        console.print("The authority's key is not here: put ca.key back, if it was kept in this folder.", markup=False)
    console.print(f"  unisono coordinator members --home {folder}", markup=False, soft_wrap=True)
    console.print(f"  unisono coordinator serve --home {folder}", markup=False, soft_wrap=True)


def _copied(home: Path) -> bool:
    """Ask the coordinator that serves for a copy of its store; False if none does."""
    try:
        with operator(home) as client:
            client.call("snapshot")
    except UnisonoError as error:
        if error.rule in ("unreachable", "certificate-pending"):
            return False
        raise
    return True


def _passphrase(file: Path | None, *, new: bool) -> str:
    """From a file or a terminal, never from the command line, which every user of the machine can read. `NetworkError` if a new one
    is too short."""
    from unisono.network.backup.sealed import SHORTEST_PASSPHRASE

    if file is None:
        text = str(typer.prompt("Passphrase of the back-up", hide_input=True, confirmation_prompt=new))
    else:
        path = file.expanduser()
        with storage(path, "passphrase file"), path.open(encoding="utf-8") as opened:
            text = opened.readline().rstrip("\r\n")
    if new and len(text) < SHORTEST_PASSPHRASE:
        raise NetworkError(
            f"The passphrase has fewer than {SHORTEST_PASSPHRASE} characters.",
            rule="passphrase-length",
            remedy="Take a longer one: private keys are in a back-up. Six random words are easy to keep.",
        )
    return text


def _written(to: Path, manifest: Manifest) -> None:
    size = sum(entry.size for entry in manifest.files.values())
    say(f"{to}: {len(manifest.files)} files, {size / 1e6:,.1f} MB, of {manifest.made:%Y-%m-%d %H:%M} UTC", good=True)
    console.print(
        "Without its passphrase nobody can read it, you neither. Keep both, apart from each other.", markup=False
    )
