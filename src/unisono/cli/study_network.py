"""`unisono study` in the network: join as a researcher, sign a study, submit it to hospitals, watch it, fetch its results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from unisono.cli.console import out as console
from unisono.cli.shown import need_network, say, show_table, token_text, utc_now
from unisono.cli.site_network import ProxyOption
from unisono.cli.study_watch import WatchView, clean, say_late, when
from unisono.errors import StudyError, UnisonoError

if TYPE_CHECKING:
    from unisono.network.researcher import Client, PersonFolder

HOME = Path("~/.unisono/researcher")
HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="UNISONO_RESEARCHER_HOME", help="The researcher's own folder: key, certificate."),
]
StudyFile = Annotated[Path, typer.Argument(help="The study: YAML or JSON.")]
StudyName = Annotated[str, typer.Argument(help="The study's id, or the beginning of its digest.")]
SignatureOption = Annotated[
    Path | None, typer.Option("--signature", help="The file of the signature, if not beside the study.")
]


def add_to(app: typer.Typer) -> None:
    """Put these commands under `unisono study`."""
    for command in (join, sign, submit, status, watch, result, cancel):
        app.command(command.__name__)(command)


def join(
    token: Annotated[str, typer.Argument(help="The operator's token; or - to read it from standard input.")],
    home: HomeOption = HOME,
    proxy: ProxyOption = None,
) -> None:
    """Join a federation as a researcher: your keys are made here and stay here.

    [bold]Example[/]: unisono study join - < rossi.token
    """
    need_network()
    from unisono.network.researcher import join as join_federation

    text = token_text(token, "study join")
    folder = _folder(home)
    found = join_federation(text, folder, utc_now(), proxy=proxy)
    say(f"joined as the researcher {found.name} at {found.address}", good=True)
    console.print(f"  your key  {folder.fingerprint()}", markup=False)
    console.print("Hospitals see it beside your studies: tell them, so that they can compare it.", markup=False)


def sign(study: StudyFile, signature: SignatureOption = None, home: HomeOption = HOME) -> None:
    """Sign a study as it is, with your own key: the coordinator cannot put a question into your mouth.

    [bold]Example[/]: unisono study sign study.yaml
    """
    need_network()
    from unisono.methods.registry import check as method_checks
    from unisono.network.researcher import sign as sign_study
    from unisono.network.researcher import signature_file
    from unisono.study.load import load

    checked, folder = load(study, method_checks), _folder(home)
    path = signature or signature_file(study)
    found = sign_study(checked, folder, path)
    say(f"{checked.id} is signed by {found.researcher}: {path}", good=True)
    console.print(f"  {checked.question}", markup=False)
    console.print(f"  digest    {checked.digest()}", markup=False)
    console.print(f"  your key  {found.fingerprint}", markup=False)


def submit(
    study: StudyFile,
    sites: Annotated[str, typer.Option("--sites", help="Of which sites it is asked: padua,turin,leiden.")],
    signature: SignatureOption = None,
    home: HomeOption = HOME,
) -> None:
    """Submit a signed study to a federation. It runs when the data steward of every site has approved it.

    [bold]Example[/]: unisono study submit study.yaml --sites padua,turin,leiden
    """
    need_network()
    from unisono.methods.registry import check as method_checks
    from unisono.network.researcher import signature_file, signature_of
    from unisono.network.wordcode import word_code
    from unisono.protection.secagg.roster import Roster
    from unisono.study.load import dump_json, load

    names = _names(sites)
    checked = load(study, method_checks)
    signed = signature_of(checked, signature or signature_file(study))
    with _client(home) as client:
        found = client.call("submit", document=dump_json(checked), signature=signed.to_tree(), sites=names)
        found = clean(found)
        known = Roster.from_tree(client.call("sites")["roster"])
    say(f"{found['id']} is submitted: {_said(found)}", good=True)
    console.print(f"  digest     {found['study']}", markup=False)
    roster = Roster({name: known[name] for name in names if name in known})
    console.print(f"  word-code  {word_code(roster.digest)}", markup=False)
    console.print("             the stewards of these hospitals see the same one, and compare it", markup=False)
    console.print(f"Watch it: unisono study watch {found['id']}", markup=False)


def status(
    study: Annotated[str | None, typer.Argument(help="The study's id or digest; without it, all of yours.")] = None,
    home: HomeOption = HOME,
) -> None:
    """Show where a study stands; or all studies of yours.

    [bold]Example[/]: unisono study status als-survival
    """
    need_network()
    with _client(home) as client:
        if study is not None:
            console.print(WatchView.panel(client.call("status", study=study)))
            return
        found = clean(client.call("studies"))["studies"]
    if not found:
        console.print("No study was submitted yet: unisono study submit STUDY --sites a,b,c", markup=False)
        return
    rows = [(s["id"], s["study"][:12], s["state"], _approved(s), when(s["submitted"]), s["why"]) for s in found]
    show_table(("study", "digest", "state", "approved", "submitted (UTC)", ""), rows)


def watch(study: StudyName, home: HomeOption = HOME) -> None:
    """Watch a study until it is over: sites online, step, who is late, bytes, time left. Ctrl-C stops watching, not the study.

    [bold]Example[/]: unisono study watch als-survival
    """
    need_network()
    state: dict[str, Any] = {}
    with _client(home) as client, WatchView(console) as view:
        for seen in client.watch(study):
            state = seen.state
            view.show(seen)
    view.last(state)
    if state.get("state") != "finished":
        raise typer.Exit(1)
    console.print(f"Fetch the results: unisono study result {state['id']} --out results", markup=False)


def result(
    study: StudyName,
    out: Annotated[Path, typer.Option("--out", help="The folder of results.")] = Path("results"),
    home: HomeOption = HOME,
) -> None:
    """Fetch a study's results: tables here, result.json, figures and report.html in the folder.

    [bold]Example[/]: unisono study result als-survival --out results/
    """
    need_network()
    from unisono.cli.folder import check_folder
    from unisono.federation.storage import write_whole
    from unisono.methods.registry import check as method_checks
    from unisono.report.audience import FILE as FILES
    from unisono.report.delivered import read
    from unisono.report.terminal import answer_panel
    from unisono.study.load import load

    with _client(home) as client:
        files = client.files(study)
        document = client.file(study, "study.yaml", files["study.yaml"]) if "study.yaml" in files else None
        try:
            asked = load(_document(document), method_checks)
        except UnisonoError as error:
            error.where = "results"
            raise
        check_folder(out, asked)
        for name, sha256 in files.items():
            write_whole(out / name, client.file(study, name, sha256), "result")
    delivered = read(out)
    for outcome in delivered.outcomes.values():
        console.print(answer_panel(outcome, delivered.sites))
    report = "report.html for reading, " if (out / "report.html").exists() else ""
    shown = f"Results in [bold]{escape(str(out))}[/]: {report}<analysis>/result.json for programs; {FILES} says who may see what."
    console.print(shown)
    if any(outcome.answer is None for outcome in delivered.outcomes.values()):
        raise typer.Exit(1)


def cancel(study: StudyName, home: HomeOption = HOME) -> None:
    """Stop a study: nothing more is asked. What was opened stays opened.

    [bold]Example[/]: unisono study cancel als-survival
    """
    need_network()
    with _client(home) as client:
        found = clean(client.call("cancel", study=study))
    say(f"{study}: {found['state']}. {found['why']}".rstrip(), good=True)


# -- small things -------------------------------------------------------------------------------------------------------


def _folder(home: Path) -> PersonFolder:
    from unisono.network.researcher import PersonFolder

    return PersonFolder(home.expanduser())


@contextmanager
def _client(home: Path) -> Iterator[Client]:
    from unisono.network.researcher import Client

    with Client(_folder(home)) as client:
        client.renew_if_due(utc_now())
        yield client


def _names(sites: str) -> list[str]:
    names = [name.strip() for name in sites.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise StudyError(
            "--sites names no site, or one twice.",
            rule="distinct-sites",
            remedy="Write the names with commas between: --sites padua,turin,leiden.",
        )
    return names


def _document(content: Any) -> dict[str, Any]:
    """The study within the results, as plain values. `StudyError` if there is none."""
    from unisono.study.strict_yaml import parse

    value = None
    if content is not None:
        value = parse(bytes(content).decode("utf-8", "replace"), "study.yaml").value
    if not isinstance(value, dict):
        raise StudyError(
            "The results hold no study.", rule="result-files", remedy="Ask the coordinator's operator for the files."
        )
    return value


def _said(found: dict[str, Any]) -> str:
    return f"{found['state']}; {say_late(found, utc_now())}" if found["waiting_for"] else str(found["state"])


def _approved(found: dict[str, Any]) -> str:
    sites = found["sites"].values()
    return f"{sum(site['decision'] == 'approved' for site in sites)} of {len(sites)}"
