"""The hospital's data by name: ``data.json`` says which file, read through which mapping. Files stay where they are; only
their paths are kept."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from unisono.errors import DataError, DisclosureRefusal, MappingError, UnisonoError
from unisono.federation.storage import write_whole
from unisono.methods.registry import build
from unisono.network.agent.folder import AgentFolder, read_json
from unisono.protection import disclosure
from unisono.site.data.mapping import FileFormat, Mapping
from unisono.site.data.readers import read
from unisono.site.data.snapshot import Snapshot, freeze
from unisono.site.policy import Policy
from unisono.study import strict_yaml
from unisono.study.cohort import select
from unisono.study.document import SLUG, Study

FILE = "data.json"
MAX_MAPPING_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Dataset:
    """One entry of ``data.json``. file, mapping: absolute paths. added: ISO time. rows, columns: when it was added."""

    name: str
    file: str
    mapping: str | None
    added: str
    rows: int
    columns: int

    def freeze(self, study: Study, site: str) -> Snapshot:
        """The data in the study's words. `MappingError` and `DataError` with everything that is wrong."""
        return freeze(Path(self.file), None if self.mapping is None else Path(self.mapping), study, site)


@dataclass(frozen=True)
class LocalCheck:
    """What a study would use of a dataset. rows: read. patients: that would be in, by analysis. notes: of the harmonisation.
    refusals: rules of this site that the study breaks on this data. It stays at the site."""

    dataset: Dataset
    rows: int
    patients: dict[str, int]
    notes: tuple[str, ...]
    refusals: tuple[UnisonoError, ...]


def listed(folder: AgentFolder) -> dict[str, Dataset]:
    """Every dataset by name. `StorageError` if the file is damaged."""
    path = folder.path / FILE
    if not path.exists():
        return {}
    content = read_json(path, "list of datasets")
    try:
        assert isinstance(content, dict)
        return {name: Dataset(name=name, **entry) for name, entry in content.items()}
    except (AssertionError, TypeError) as error:
        raise DataError(
            f"{path} is no list of datasets.",
            rule="readable-file",
            remedy="Remove it and add the files again with `unisono site data add`.",
        ) from error


def add(
    folder: AgentFolder, name: str, file: Path, mapping: Path | None, now: datetime, *, replace: bool = False
) -> Dataset:
    """Read a file once through its mapping's format, and keep where it is. `DataError` or `MappingError` if it cannot be read,
    or if the name is taken or none. What study it can answer is seen when there is a study."""
    known = listed(folder)
    if not re.fullmatch(SLUG, name):
        raise DataError(
            f"{name[:64]!r} cannot be a dataset's name.",
            rule="dataset-names",
            remedy="Use lower-case letters, digits, dots and dashes.",
        )
    if name in known and not replace:
        raise DataError(
            f"There is a dataset {name!r} already: {known[name].file}.",
            rule="dataset-names",
            remedy="Choose another name; or replace it with --force, which stops runs that were begun on the old file.",
        )
    raw = read(file, _format(mapping))
    found = Dataset(
        name=name,
        file=str(file.absolute()),
        mapping=None if mapping is None else str(mapping.absolute()),
        added=now.isoformat(),
        rows=raw.n,
        columns=len(raw.names),
    )
    entries = {**known, name: found}
    content = {key: {k: v for k, v in asdict(entry).items() if k != "name"} for key, entry in sorted(entries.items())}
    write_whole(folder.path / FILE, f"{json.dumps(content, indent=2)}\n".encode(), "list of datasets", mode=0o600)
    return found


def choose(folder: AgentFolder, name: str | None) -> Dataset:
    """The dataset of that name; the only one, if no name is given. `DataError` if that is not clear."""
    known = listed(folder)
    if name is not None and name in known:
        return known[name]
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if not known:
        raise DataError(
            "This site has no dataset yet.", rule="known-datasets", remedy="Add one: unisono site data add NAME FILE."
        )
    what = "This site has several datasets." if name is None else f"There is no dataset {name!r} here."
    raise DataError(what, rule="known-datasets", remedy=f"Name one with --data: {', '.join(known)}.")


def check(dataset: Dataset, study: Study, site: str, policy: Policy) -> LocalCheck:
    """Read the data as the study would, and count who would be in. `MappingError` and `DataError` if it cannot be read."""
    snapshot = dataset.freeze(study, site)
    patients: dict[str, int] = {}
    refusals: list[UnisonoError] = []
    filled_in = dict.fromkeys(study.variables, 0.0)  # only who is selected matters here
    for name in study.analyses:
        method = build(study, name)
        keep = select(snapshot.table.without_images(), study, method.variables(), method.rows, filled_in).keep
        patients[name] = int(np.count_nonzero(keep))
        try:
            disclosure.enough_patients(patients[name], policy.min_patients)
            disclosure.enough_for_parameters(patients[name], method.parameters, policy.parameter_fraction)
        except DisclosureRefusal as refusal:
            refusal.where = f"analysis {name}"
            refusals.append(refusal)
    try:
        policy.check_study(study)
    except UnisonoError as refusal:
        refusals.insert(0, refusal)
    return LocalCheck(dataset, snapshot.table.n, patients, tuple(snapshot.report.notes), tuple(refusals))


def _format(mapping: Path | None) -> FileFormat:
    """How the mapping says that the file is written; the mapping itself is checked for its form."""
    if mapping is None:
        return FileFormat()
    try:
        if mapping.stat().st_size > MAX_MAPPING_BYTES:
            raise MappingError(
                f"{mapping.name} is larger than 1 MiB.", rule="size-limits", remedy="Is it a mapping file?"
            )
        text = mapping.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MappingError(
            f"The mapping file {mapping.name} cannot be read.",
            rule="readable-file",
            remedy=f"Check the path ({mapping}).",
        ) from error
    document = strict_yaml.parse(text or "{}", mapping.name, kind=MappingError).value
    if not isinstance(document, dict) or document.get("unisono-mapping") is None:
        raise MappingError(
            f"{mapping.name} is not a mapping file.",
            rule="mapping-version",
            remedy="A mapping file begins with the line `unisono-mapping: 1`; `unisono site map` proposes one.",
        )
    try:
        return Mapping.model_validate(document).file
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False)[:3])
        raise MappingError(
            f"{mapping.name} has entries that no mapping has, at: {places}.",
            rule="valid-mapping",
            remedy="`unisono site check FILE STUDY --mapping MAPPING` says of each what is wrong.",
        ) from error
