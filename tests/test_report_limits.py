"""What the report says of how its numbers relate to those of pooled patients: what is so for each method, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support import lung
from unisono.methods.registry import methods
from unisono.report.limits import checks_and_limits
from unisono.report.load import LoadedRun

EXACT, TREES, DIFFERS = (
    "would give (to seven digits or more)",
    "would grow on the pooled patients",
    "would give differs",
)


def said(*names: str) -> list[str]:
    """The sentences of a run that answered an analysis by each of these methods, called as the method."""
    analyses = [
        SimpleNamespace(
            name=name,
            record=SimpleNamespace(method=name, participation=SimpleNamespace(left=[])),
            result=SimpleNamespace(estimates={}),
        )
        for name in names
    ]
    return checks_and_limits(cast(LoadedRun, SimpleNamespace(study=lung.study(), analyses=analyses, answered=analyses)))


@pytest.mark.parametrize("name", ["describe", "kaplan-meier", "cox", "glm", "evaluate"])
def test_sums_are_those_of_the_pooled_patients(name: str) -> None:
    assert EXACT in said(name)[0]


def test_every_method_but_the_statistics_says_that_pooling_would_give_something_else() -> None:
    for name, method in methods().items():
        expected: dict[str, Any] = {"exact": EXACT, "same-trees": TREES, "none": DIFFERS}
        assert expected[method.pooled] in said(name)[0]
    assert methods()["hist-boosting"].pooled == "same-trees"
    trained = ("fedavg", "scaffold", "ditto", "fedrep", "bagged-boosting", "cyclic-boosting")
    assert {methods()[name].pooled for name in trained} == {"none"}


def test_a_report_of_several_says_it_of_each() -> None:
    first = said("cox", "fedavg", "hist-boosting", "bagged-boosting")[:3]
    assert first[0].startswith("The numbers of “cox” are those")
    assert first[1].startswith("The trees of “hist-boosting” are those")
    assert "differs from the numbers of “fedavg”, “bagged-boosting”:" in first[2]
    assert "docs/heterogeneity.md" in first[2]
