"""`unisono simulate partition`: any table or image set over simulated sites that differ on purpose."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from unisono.cli.console import errors as error_console
from unisono.cli.console import out as console
from unisono.errors import StudyError
from unisono.study.units import check_unit

if TYPE_CHECKING:
    from unisono.workbench.collection import Collection

_SHOWN_CLASSES = 12


def partition(
    source: Annotated[
        str, typer.Argument(help="A CSV or Parquet file, or: breast-cancer, digits, digits-images, generated.")
    ],
    label: Annotated[
        str | None, typer.Option("--label", help="The column that holds the outcome. Built-in data has its own.")
    ] = None,
    sites: Annotated[int, typer.Option("--sites", help="How many sites.")] = 5,
    label_skew: Annotated[
        float | None,
        typer.Option("--label-skew", help="Dirichlet concentration of the class mixes: 0.1 is strong, 10 nearly even."),
    ] = None,
    quantity_skew: Annotated[
        float | None, typer.Option("--quantity-skew", help="Dirichlet concentration of the sites' sizes.")
    ] = None,
    feature_shift: Annotated[
        float,
        typer.Option("--feature-shift", help="Strength of each site's gain and offset; of its scanner, for images."),
    ] = 0.0,
    unit_drift: Annotated[
        int, typer.Option("--unit-drift", help="In how many columns some sites record another unit.")
    ] = 0,
    undeclared: Annotated[
        bool, typer.Option("--undeclared", help="The sites' mappings do not say so: the values are wrong by a factor.")
    ] = False,
    concept_shift: Annotated[
        int, typer.Option("--concept-shift", help="In how many groups of sites a label means something else.")
    ] = 1,
    missing: Annotated[
        float, typer.Option("--missing", help="Share of the features that a site does not record at all.")
    ] = 0.0,
    least: Annotated[int, typer.Option("--least", help="Patients at every site, at least.")] = 20,
    unit: Annotated[
        list[str] | None, typer.Option("--unit", help="NAME=UNIT of a column (UCUM). May be repeated.")
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="The folder of the images.")] = None,
    image_column: Annotated[
        str | None, typer.Option("--image-column", help="The column that names each patient's image file.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same split, on any computer.")] = 1,
    form: Annotated[Literal["csv", "parquet"], typer.Option("--format", help="Of the sites' tables.")] = "csv",
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("partition"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Write an earlier partition in that folder over.")] = False,
) -> None:
    """Split data over simulated sites by label skew, quantity skew, feature shift, unit drift, concept shift and missing features.

    Writes a table for each site, sites.yaml, a study to begin with, the record of what was done, and figures. Every patient is at
    exactly one site.

    [bold]Example[/]: unisono simulate partition digits --label-skew 0.1 --feature-shift 0.5 --out digits-skewed

    [bold]Example[/]: unisono simulate partition cohort.csv --label died --sites 4 --quantity-skew 0.5 --unit weight=kg --unit-drift 1
    """
    from unisono.workbench.builtin import NAMES, built_in
    from unisono.workbench.collection import read_table
    from unisono.workbench.drawings import draw
    from unisono.workbench.partition import Plan
    from unisono.workbench.written import write

    if undeclared and not unit_drift:
        raise StudyError(
            "--undeclared says how units drift, and none does.",
            rule="partition-options",
            remedy="Add --unit-drift with the number of columns, or leave --undeclared out.",
        )
    plan = Plan(
        sites=sites,
        seed=seed,
        label_skew=label_skew,
        quantity_skew=quantity_skew,
        feature_shift=feature_shift,
        unit_drift=unit_drift,
        declared=not undeclared,
        concept_groups=concept_shift,
        missing=missing,
        least=least,
    )
    with tempfile.TemporaryDirectory() as scratch:
        if source in NAMES or not Path(source).exists():
            collection = built_in(source, Path(scratch))
            _needs_none(
                collection, {"--label": label, "--unit": unit, "--images": images, "--image-column": image_column}
            )
        else:
            collection = read_table(
                Path(source), label=label, units=_units(unit or []), images=images, image=image_column
            )
        with Progress(
            TextColumn("[bold]sites[/]"), BarColumn(), MofNCompleteColumn(), console=error_console
        ) as progress:
            task = progress.add_task("sites", total=sites)
            written = write(collection, plan, out, form=form, fresh=fresh, advance=lambda n: progress.advance(task, n))
    console.print(f"[bold]{escape(collection.name)}[/] ({escape(collection.origin)}): {len(collection):,} patients")
    console.print(f"Differs between sites: {escape('; '.join(plan.differences()))}")
    table = Table("site")
    classes = list(written.splits[0].record["classes"])[:_SHOWN_CLASSES]
    for head in ("patients", *classes):
        table.add_column(head, justify="right")
    for site in written.splits:
        tally = site.record["classes"]
        table.add_row(site.name, f"{len(site.rows):,}", *(f"{tally[name]:,}" for name in classes))
    console.print(table)
    draw(written)
    place = escape(str(out))
    console.print(
        f"In [bold]{place}[/]: data/, partition.json (what was done), figures/. To run the study that is there:"
    )
    console.print(f"  [bold]unisono run {place}/study.yaml --sites {place}/sites.yaml --out results[/]", soft_wrap=True)


def _needs_none(collection: Collection, said: dict[str, object]) -> None:
    """`StudyError` for an option that says of built-in data what it says itself: it would change nothing."""
    given = [name for name, value in said.items() if value and not (name == "--label" and value == collection.label)]
    if given:
        raise StudyError(
            f"{collection.name!r} is built in, and {' and '.join(given)} would change nothing.",
            rule="partition-options",
            remedy=f"Leave {' and '.join(given)} out (its outcome is {collection.label!r}), or split a table of your own.",
        )


def _units(said: list[str]) -> dict[str, str]:
    found = {}
    for text in said:
        name, equals, unit = text.partition("=")
        if not equals:
            raise StudyError(
                f"--unit {text!r} names no unit.", rule="unit-form", remedy="Write NAME=UNIT: --unit weight=kg"
            )
        check_unit(unit)
        found[name] = unit
    return found
