"""Packages of models: what a site installs and refuses; that permits pin them; that a study over another one is never begun."""

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import engine, training
from tests.support.network import SITES, net, ok, said
from tests.support.wheels import MODULE, sha256, wheel
from unisono.cli.main import main
from unisono.errors import PermitError, PolicyRefusal, ProtocolError, StorageError, UnisonoError
from unisono.federation.ask import Ask
from unisono.federation.contribution import Facts
from unisono.methods.packages import Package, packages, packages_of, same_packages, to_tree
from unisono.methods.registry import build, packages_for
from unisono.methods.training.models.registry import kinds, model_spec, spec_type
from unisono.network.agent import serve, sheet
from unisono.network.agent.datasets import Dataset
from unisono.network.agent.folder import AgentFolder
from unisono.network.agent.offer import Offer
from unisono.network.agent.studies import make_worker
from unisono.network.signing import StudySignature
from unisono.protection.secagg.roster import Identity, Roster
from unisono.site import gate
from unisono.site.packages import activate, folders, install, listed, remove
from unisono.site.permit import Permit, propose
from unisono.study.document import Study

NOW = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def put(site: Path, path: Path, **how: Any) -> Any:
    """Install a wheel with its own digest."""
    return install(site, path, sha256(path), NOW, **how)


def refused(do: Callable[[], object], rule: str, kind: type[UnisonoError] = PolicyRefusal) -> UnisonoError:
    with pytest.raises(UnisonoError) as error:
        do()
    assert (type(error.value), error.value.rule) == (kind, rule), error.value
    return error.value


@pytest.fixture
def clean() -> Iterator[None]:
    """What a package adds to this process is taken away again."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "retina_models":
            del sys.modules[name]
    importlib.invalidate_caches()
    spec_type.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with version 1.0 installed."""
    folder = tmp_path_factory.mktemp("made")
    put(folder / "site", wheel(folder))
    return folder / "site"


# -- installing -------------------------------------------------------------------------------------------------------


def test_a_wheel_is_installed_into_the_sites_own_folder_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    path = wheel(tmp_path, requires="Requires-Dist: a-package-that-is-nowhere\n")
    found = put(tmp_path / "site", path)
    assert (found.name, found.version, found.wheel) == ("retina-models", "1.0", sha256(path))
    assert found.entry_points == {"unisono.models": {"retina-net": "retina_models:RetinaNet"}}
    folder = tmp_path / "site" / "packages" / "retina-models-1.0"
    assert (folder / "retina_models" / "__init__.py").read_text() == MODULE
    assert not list(folder.rglob("imported")), "installing has imported the package"
    assert listed(tmp_path / "site") == [found]
    assert folders(tmp_path / "site") == (folder,)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["packages.json", "retina-models-1.0"]


def test_pip_is_run_without_a_network_without_dependencies_and_without_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run(command: list[str], **how: Any) -> Any:
        ran.append((command, how))
        raise OSError

    monkeypatch.setenv("PIP_INDEX_URL", "https://elsewhere.example")
    monkeypatch.setattr("unisono.site.packages.subprocess.run", run)
    refused(lambda: put(tmp_path / "site", wheel(tmp_path)), "pip", StorageError)
    ((command, how),) = ran
    assert {"--no-deps", "--no-index", "--isolated", "--no-input", "--no-compile"} <= set(command)
    assert not [name for name in how["env"] if name.startswith(("PIP_", "PYTHON")) and name != "PIP_CONFIG_FILE"]
    assert not listed(tmp_path / "site")


def test_the_same_wheel_again_changes_nothing_and_another_version_needs_force(tmp_path: Path) -> None:
    site, one = tmp_path / "site", wheel(tmp_path)
    first = put(site, one)
    assert put(site, one) == first
    two = wheel(tmp_path / "new", version="1.1")
    error = refused(lambda: put(site, two), "package-installed")
    assert "in version 1.0" in error.what
    second = put(site, two, replace=True)
    assert listed(site) == [second]
    assert [p.name for p in folders(site)] == ["retina-models-1.1"]
    assert not (site / "packages" / "retina-models-1.0").exists()


def test_two_sites_that_installed_the_same_wheel_have_the_same_content(made: Path, tmp_path: Path) -> None:
    path = wheel(tmp_path)
    one = put(tmp_path / "deeper" / "b", path)
    assert one.content == listed(made)[0].content
    compiled = tmp_path / "deeper" / "b" / "packages" / "retina-models-1.0" / "retina_models" / "__pycache__"
    compiled.mkdir()
    (compiled / "__init__.cpython-311.pyc").touch()
    assert len(folders(tmp_path / "deeper" / "b")) == 1, "what Python compiles is not of the package"
    other = put(tmp_path / "c", wheel(tmp_path / "o", files={"retina_models/__init__.py": MODULE + "# 1\n"}))
    assert other.content != one.content


def test_a_package_can_be_removed(made: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(made, site)
    assert remove(site, "Retina_Models").version == "1.0"
    assert listed(site) == []
    assert not (site / "packages" / "retina-models-1.0").exists()
    refused(lambda: remove(site, "retina-models"), "package-installed")


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("a source archive", "wheel-only", {"file": "retina_models-1.0.tar.gz"}),
    ("a name without tags", "wheel-only", {"file": "retina_models.whl"}),
    ("another package's metadata", "wheel-only", {"file": "other-1.0-py3-none-any.whl"}),
    ("no entry point", "package-entry-points", {"points": None}),
    ("only a script", "package-entry-points", {"points": "[console_scripts]\nretina = retina_models:main\n"}),
    ("a script", "package-files", {"files": {"retina_models-1.0.data/scripts/run": "#!/bin/sh"}}),
    ("a file that Python runs at its start", "package-files", {"files": {"start.pth": "import os"}}),
    ("a customisation of Python", "package-files", {"files": {"sitecustomize.py": ""}}),
    ("a path that leads out", "package-files", {"files": {"retina_models/../../evil.py": ""}}),
    ("an absolute path", "package-files", {"files": {"/etc/cron.d/evil": ""}}),
    ("a module of Python's", "package-names", {"files": {"json/__init__.py": ""}}),
    ("a module of Unisono's", "package-names", {"files": {"unisono/site/gate.py": ""}}),
    ("a module of the environment's", "package-names", {"files": {"numpy.py": ""}}),
]


@pytest.mark.parametrize(("rule", "how"), [(rule, how) for _, rule, how in WRONG], ids=[name for name, _, _ in WRONG])
def test_what_is_no_package_of_models_is_refused(tmp_path: Path, rule: str, how: dict[str, Any]) -> None:
    refused(lambda: put(tmp_path / "site", wheel(tmp_path, **how)), rule)
    assert not (tmp_path / "site").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "retina_models-1.0-py3-none-any.whl"
    path.write_bytes(b"MZ")
    refused(lambda: put(tmp_path / "site", path), "wheel-only")


def test_another_digest_is_refused_before_the_file_is_opened(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    error = refused(lambda: install(tmp_path / "site", path, "0" * 64, NOW), "package-digest")
    assert sha256(path) in error.what
    assert install(tmp_path / "site", path, sha256(path).upper() + "\n", NOW).version == "1.0"


@pytest.mark.parametrize("do", ["change", "remove"])
def test_a_file_that_was_changed_after_the_installation_keeps_the_agent_from_starting(
    made: Path, tmp_path: Path, do: str
) -> None:
    site = tmp_path / "site"
    shutil.copytree(made, site)
    file = site / "packages" / "retina-models-1.0" / "retina_models" / "__init__.py"
    file.write_text(MODULE + "\nimport os\n") if do == "change" else file.unlink()
    before = list(sys.path)
    refused(lambda: activate(site), "package-changed", StorageError)
    assert sys.path == before
    if do == "change":
        put(site, wheel(tmp_path), replace=True)
        folders(site)


def test_a_damaged_record_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "packages.json").write_text('[{"name": "../x"}]')
    refused(lambda: activate(tmp_path), "readable-file", StorageError)


def test_the_commands_install_list_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["site", *map(str, arguments), "--home", str(tmp_path / "site")])
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out + shown.err

    path = wheel(tmp_path)
    code, shown = command("install", path, "--sha256", "f" * 64)
    assert (code, "package-digest" in shown) == (1, True)
    assert "No package." in command("packages")[1]
    code, shown = command("install", path, "--sha256", sha256(path))
    assert code == 0, shown
    assert "retina-models 1.0 is installed" in shown
    assert "unisono.models: retina-net" in shown
    assert listed(tmp_path / "site")[0].content in shown
    shown = command("packages")[1]
    assert all(text in shown for text in ("retina-models", "1.0", "retina-net (unisono.models)"))
    assert "is removed" in command("packages", "--remove", "retina-models")[1]


# -- finding them -----------------------------------------------------------------------------------------------------


def asked(**model: Any) -> Study:
    """A training study that names the package's model; not checked, as where it is not installed."""
    whole = training.study()
    written = {**training.BASE, "model": {"kind": "retina-net", **model}}
    return whole.model_copy(update={"analyses": {"model": whole.analyses["model"].model_validate(written)}})


def test_an_activated_package_is_found_pinned_and_in_the_place_of_nothing(made: Path, clean: None) -> None:
    assert packages_for(asked()) == {}
    with pytest.raises(UnisonoError, match="There is no model 'retina-net' here"):
        model_spec({"kind": "retina-net"})
    (folder,) = activate(made)
    assert sys.path[-1] == str(folder), "behind everything else"
    activate(made)
    assert sys.path.count(str(folder)) == 1
    assert "retina-net" in kinds()
    assert model_spec({"kind": "retina-net", "width": 2}).model_dump() == {"kind": "retina-net", "width": 2}
    (package,) = packages_for(asked()).values()
    assert (package.name, package.version, package.sha256) == ("retina-models", "1.0", listed(made)[0].content)
    assert packages() == {"retina-models": package}
    assert packages_of("unisono.models") == {"retina-net": package}
    assert packages_for(engine.study()) == {}, "Unisono's own methods come from no package"


def test_a_worker_process_finds_the_packages_model(made: Path, clean: None, tmp_path: Path) -> None:
    activate(made)
    data = tmp_path / "padua.csv"
    training.breast_cancer().head(40).to_csv(data, index=False)
    study, dataset = asked(), Dataset("cells", str(data), None, NOW.isoformat(), 40, 5)
    model, round_, prepared = build(study, "model").example()[:3]  # type: ignore[attr-defined]
    prepared = prepared + np.array([1.0 if 4 <= k < 8 else 0.5 for k in range(prepared.size)])  # means; deviations of 1
    ask = Ask(
        run="r",
        study=study.digest(),
        analysis="model",
        method="fedavg",
        version=1,
        operation="sum",
        contribution="evaluation",
        step=1,
        epoch=0,
        attempt=1,
        sites=SITES,
        hide="none",
        encoding="exact",
        facts=Facts(100),
        arguments=[model, round_, prepared],
    )
    worker: Any = make_worker(study, dataset, "padua", bytes(32), folders(made))
    with worker:
        assert worker.contribution(ask, {}).tree


def test_the_agent_activates_its_folder_and_gives_it_to_its_workers(
    made: Path, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Stop(Exception):
        """The agent is made no further."""

    def credentials(_: AgentFolder) -> Any:
        raise Stop

    def noted(function: Any, **how: Any) -> Any:
        given.append((function, how["packages"]))
        return partial(function, **how)

    monkeypatch.setattr(serve, "partial", noted)
    monkeypatch.setattr(AgentFolder, "settings", lambda _: None)
    monkeypatch.setattr(AgentFolder, "credentials", credentials)
    with pytest.raises(Stop):
        serve.Agent(AgentFolder(made), serve.Options())
    assert given == [(make_worker, folders(made))]
    assert "retina-net" in kinds()


# -- permits ----------------------------------------------------------------------------------------------------------


def permit_of(study: Study, identity: Identity) -> tuple[Permit, Roster]:
    roster = Roster({name: identity.public if name == "padua" else Identity.generate().public for name in SITES})
    return propose(study, roster, "padua", NOW).signed(identity), roster


def test_a_permit_pins_the_packages_as_they_were_installed(
    made: Path, clean: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(made)
    identity = Identity.generate()
    permit, roster = permit_of(asked(), identity)
    check = partial(gate.consent, asked(), permit, roster, "padua", identity)
    check()
    (package,) = permit.packages
    assert package.sha256 == listed(made)[0].content
    others = {
        "has version 1.0 (sha256 000000000000) now": {"retina-models": package.model_copy(update={"sha256": "0" * 64})},
        "has version 1.1 (sha256": {"retina-models": package.model_copy(update={"version": "1.1"})},
        "has none now": {},
    }
    for text, now in others.items():
        monkeypatch.setattr(gate, "packages_for", lambda _, now=now: now)
        error = refused(check, "package-version", PermitError)
        assert "padua approved study 'cells' with the package 'retina-models' version 1.0 (sha256 " in error.what
        assert text in error.what


def test_the_steward_reads_which_packages_code_would_run() -> None:
    permit, _ = permit_of(engine.study(), Identity.generate())
    assert sheet.packages(permit) == []
    (line,) = sheet.packages(permit.model_copy(update={"packages": (PACKAGE,)}))
    assert "retina-models, version 1.0 (sha256 aaaaaaaaaaaa)" in line


def test_packages_and_their_content_are_listed_beside_the_methods(
    made: Path, clean: None, capsys: pytest.CaptureFixture[str]
) -> None:
    activate(made)
    with pytest.raises(SystemExit):
        main(["methods"])
    assert f"package retina-models 1.0, content {listed(made)[0].content}" in capsys.readouterr().out


def test_a_permit_without_packages_does_not_cover_a_study_that_needs_one(made: Path, clean: None) -> None:
    activate(made)
    identity = Identity.generate()
    permit, roster = permit_of(asked(), identity)
    bare = permit.model_copy(update={"packages": ()}).signed(identity)
    error = refused(lambda: gate.consent(asked(), bare, roster, "padua", identity), "package-version", PermitError)
    assert "without the package 'retina-models'" in error.what


def test_permits_that_pin_no_package_are_signed_over_the_bytes_that_they_always_were() -> None:
    permit, _ = permit_of(engine.study(), Identity.generate())
    assert permit.packages == ()
    assert "packages" not in json.loads(permit.body())
    pinned = permit.model_copy(update={"packages": (PACKAGE,)})
    assert json.loads(pinned.body())["packages"] == [PACKAGE.to_tree()]
    assert Permit.model_validate_json(pinned.model_dump_json()) == pinned


# -- between coordinator and sites ------------------------------------------------------------------------------------

PACKAGE = Package(name="retina-models", version="1.0", sha256="a" * 64)
OTHERS: dict[str, Any] = {
    "padua has not installed it": {},
    "padua has version 1.1 (sha256 aaaaaaaaaaaa)": {"retina-models": {**PACKAGE.to_tree(), "version": "1.1"}},
    "padua has version 1.0 (sha256 bbbbbbbbbbbb)": {"retina-models": {**PACKAGE.to_tree(), "sha256": "b" * 64}},
    "padua has none that can be read": {"retina-models": ["1.0"]},
}


@pytest.mark.parametrize(("text", "theirs"), OTHERS.items(), ids=["missing", "version", "content", "garbled"])
def test_another_package_is_refused_and_both_are_named(text: str, theirs: dict[str, Any]) -> None:
    error = refused(
        lambda: same_packages({"retina-models": PACKAGE}, theirs, "padua"), "package-version", ProtocolError
    )
    assert "The coordinator runs the package 'retina-models', version 1.0 (sha256 aaaaaaaaaaaa); " in error.what
    assert text in error.what
    assert "unisono site install" in error.remedy


def test_the_same_packages_and_further_ones_are_fine() -> None:
    further = Package(name="other", version="3", sha256="c" * 64)
    same_packages(to_tree([PACKAGE]), to_tree([PACKAGE, further]), "padua")
    same_packages({}, to_tree([PACKAGE]), "padua")


def test_a_study_whose_package_a_site_lacks_is_refused_when_it_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unisono.network.coordinator.studies.packages_for", lambda _: {PACKAGE.name: PACKAGE})
    study = engine.study("odds")

    async def go() -> None:
        async with net(tmp_path) as opened:
            for client in opened.sites.values():
                await client.until(lambda client=client: client.connections == 1)  # type: ignore[misc]
            for site in SITES:
                opened.coordinator.sites.line(site).about["packages"] = to_tree([PACKAGE])
            opened.coordinator.sites.line("padua").about["packages"] = {}
            signature = StudySignature.make(study, "rossi", opened.identity).to_tree()
            tree = {"call": "submit", "document": study.model_dump_json(), "signature": signature, "sites": list(SITES)}
            error = (await said(opened.port, opened.researcher, tree))["error"]
            assert error["rule"] == "package-version"
            assert "version 1.0 (sha256 aaaaaaaaaaaa); padua has not installed it" in error["what"]
            assert (await ok(opened.port, opened.operator, call="studies"))["studies"] == []
            opened.coordinator.sites.line("padua").about["packages"] = to_tree([PACKAGE])
            assert "ok" in await said(opened.port, opened.researcher, tree)

    asyncio.run(go())


def test_a_site_that_was_away_refuses_the_offer_before_it_reads_the_study(tmp_path: Path) -> None:
    study, identity, researcher = asked(), Identity.generate(), Identity.generate()
    tree = {
        "study": study.model_dump_json(),
        "signature": StudySignature.make(study, "rossi", researcher).to_tree(),
        "roster": Roster({"padua": identity.public}).to_tree(),
        "submitted": NOW.isoformat(),
        "methods": {"cohort": 1},
        "packages": to_tree([PACKAGE]),
    }
    error = refused(lambda: Offer.read(tree, "padua", identity.public), "package-version", ProtocolError)
    assert "padua has not installed it" in error.what


def test_a_permit_over_another_package_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from unisono.network.coordinator import consent
    from unisono.network.coordinator.store import Asked

    identity, study = Identity.generate(), engine.study("odds")
    permit, roster = permit_of(study, identity)
    signature = StudySignature.make(study, "rossi", identity)
    of = Asked(study.digest(), study.id, study.model_dump_json(), signature, roster, NOW, "waiting", "")
    assert consent.checked_permit(permit.model_dump_json(), of, "padua", NOW) == permit
    monkeypatch.setattr(consent, "packages_for", lambda _: {PACKAGE.name: PACKAGE})
    error = refused(
        lambda: consent.checked_permit(permit.model_dump_json(), of, "padua", NOW), "package-version", ProtocolError
    )
    assert "padua has not installed it" in error.what
