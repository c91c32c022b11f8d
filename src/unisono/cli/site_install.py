"""`unisono site install` and `unisono site packages`: packages of models and methods that a site's administrator chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unisono.cli.console import out as console
from unisono.cli.shown import say, show_table, utc_now
from unisono.cli.site_network import HOME, HomeOption

HEX = 16


def add_to(app: typer.Typer) -> None:
    """Put these commands under `unisono site`."""
    app.command("install")(install)
    app.command("packages")(packages)


def install(
    wheel: Annotated[Path, typer.Argument(help="The package: a .whl file.")],
    sha256: Annotated[str, typer.Option("--sha256", help="The file's SHA-256, from a source that you trust.")],
    home: HomeOption = HOME,
    force: Annotated[bool, typer.Option("--force", help="Put it in the place of another version.")] = False,
) -> None:
    """Install a package of models or methods for this site, without a network and without dependencies; its code runs here from then
    on, so that somebody should have read it.

    [bold]Example[/]: unisono site install retina_models-1.0-py3-none-any.whl --sha256 9f86d081884c7d65... --home /var/lib/unisono
    """
    from unisono.site.packages import install as install_package

    found = install_package(_folder(home), wheel, sha256, utc_now(), replace=force)
    say(f"{found.name} {found.version} is installed", good=True)
    for group, points in sorted(found.entry_points.items()):
        console.print(f"  {group}: {', '.join(sorted(points))}", markup=False)
    console.print(f"  content {found.content}", markup=False)
    console.print(
        "  The coordinator and every other site must have the same content. Start the agent anew.", markup=False
    )


def packages(
    home: HomeOption = HOME,
    remove: Annotated[str | None, typer.Option("--remove", help="Remove the package of this name.")] = None,
) -> None:
    """List this site's packages of models and methods, or remove one.

    [bold]Example[/]: unisono site packages
    """
    from unisono.site.packages import folders, listed
    from unisono.site.packages import remove as remove_package

    folder = _folder(home)
    if remove is not None:
        gone = remove_package(folder, remove)
        say(f"{gone.name} {gone.version} is removed. Start the agent anew.", good=True)
        return
    found = listed(folder)
    if not found:
        console.print("No package. Install one: unisono site install WHEEL --sha256 HEX", markup=False)
        return
    show_table(
        ("name", "version", "content", "wheel", "brings", "installed"),
        [
            (
                package.name,
                package.version,
                package.content[:HEX],
                package.wheel[:HEX],
                ", ".join(f"{name} ({group})" for group, names in package.entry_points.items() for name in names),
                package.installed[:10],
            )
            for package in found
        ],
    )
    folders(folder)  # raises if one was changed since


def _folder(home: Path) -> Path:
    """The site's folder; `NetworkError` (``folder-role``) if it is somebody else's."""
    from unisono.network import folders as roles

    roles.only(home.expanduser(), "site")
    return home.expanduser()
