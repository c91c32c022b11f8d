"""How sites are named on the command line and in ``sites.yaml``."""

from __future__ import annotations

import re
from pathlib import Path

from unisono.engines.embedded.run import SiteData
from unisono.errors import StudyError
from unisono.study.document import SLUG
from unisono.study.strict_yaml import parse

FORM = "Write NAME=DATA or NAME=DATA,MAPPING: --site padua=padua.csv,padua.mapping.yaml"


def parse_sites(options: list[str], file: Path | None) -> dict[str, SiteData]:
    """Sites of ``--site`` options and of a ``--sites`` file. `StudyError` for a name that is there twice or is no name."""
    found: dict[str, SiteData] = {}
    for option in options:
        name, equals, rest = option.partition("=")
        if not equals or not rest:
            raise StudyError(f"--site {option!r} names no data.", rule="site-form", remedy=FORM)
        data, _, mapping = rest.partition(",")
        _add(found, name, SiteData(Path(data), Path(mapping) if mapping else None), f"--site {option}")
    if file is not None:
        _read(found, file)
    if not found:
        raise StudyError(
            "No site was named.", rule="site-form", remedy=f"{FORM}; or give a file with --sites sites.yaml."
        )
    return found


def _read(found: dict[str, SiteData], file: Path) -> None:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{file} cannot be read.", rule="sites-file", remedy="Name a YAML file: name -> {data: ..., mapping: ...}."
        ) from error
    document = parse(text, str(file))
    entries = document.value.get("sites") if isinstance(document.value, dict) else None
    if not isinstance(entries, dict):
        raise StudyError(
            "The file has no `sites:` mapping.",
            rule="sites-file",
            remedy="Write `sites: {padua: {data: padua.csv}}`.",
            where=str(file),
        )
    for name, entry in entries.items():
        where = f"{file}:{document.line(('sites', name))}"
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("data"), str)
            or not set(entry) <= {"data", "mapping"}
        ):
            raise StudyError(
                f"The site {name!r} needs `data`, and may have `mapping`.",
                rule="sites-file",
                remedy="Write `padua: {data: padua.csv, mapping: padua.mapping.yaml}`.",
                where=where,
            )
        mapping = entry.get("mapping")
        here = file.parent
        _add(found, str(name), SiteData(here / entry["data"], here / mapping if mapping else None), where)


def _add(found: dict[str, SiteData], name: str, data: SiteData, where: str) -> None:
    if not re.fullmatch(SLUG, name):
        raise StudyError(
            f"{name!r} cannot be a site's name.",
            rule="site-names",
            remedy="Use lower-case letters, digits, dots and dashes.",
            where=where,
        )
    if name in found:
        raise StudyError(
            f"Two sites are called {name!r}.",
            rule="distinct-sites",
            remedy="Give each hospital its own name; a hospital that counted twice would weigh twice.",
            where=where,
        )
    found[name] = data
