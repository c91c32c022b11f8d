"""The JSON Schema of a study: complete, self-contained, and each analysis is one of the methods' parameters."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from unisono.study.document import Grid
from unisono.study.schema import DIALECT, json_schema


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Inner(_Model):
    depth: int


class CoxLike(_Model):
    time: str
    ties: Literal["efron", "breslow"] = "efron"
    grid: Grid | None = None
    inner: Inner | None = None


class OtherInner(_Model):
    width: int


OtherInner.__name__ = "Inner"


class GlmLike(_Model):
    outcome: str
    inner: OtherInner | None = None


SCHEMA = json_schema({"cox": CoxLike.model_json_schema(), "glm": GlmLike.model_json_schema()})


def references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [r for value in schema.values() for r in references(value)]
    return [r for item in schema for r in references(item)] if isinstance(schema, list) else []


def test_it_is_2020_12_and_plain_json() -> None:
    assert SCHEMA["$schema"] == DIALECT
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["required"] == ["unisono", "id", "question", "variables", "analyses"]


def test_every_reference_leads_somewhere() -> None:
    found = references(SCHEMA)
    assert found
    for reference in found:
        assert reference.removeprefix("#/$defs/") in SCHEMA["$defs"], reference


def test_each_analysis_is_one_method_with_its_parameters() -> None:
    choices = SCHEMA["properties"]["analyses"]["additionalProperties"]["oneOf"]
    names = [SCHEMA["$defs"][c["$ref"].removeprefix("#/$defs/")] for c in choices]
    assert [n["properties"]["method"]["const"] for n in names] == ["cox", "glm"]
    cox = names[0]
    assert cox["required"] == ["method", "time"]
    assert cox["additionalProperties"] is False
    assert set(cox["properties"]) == {"method", "time", "ties", "grid", "inner"}


def test_two_methods_may_call_different_things_alike() -> None:
    assert "depth" in SCHEMA["$defs"]["cox:Inner"]["properties"]
    glm = [key for key in SCHEMA["$defs"] if key.startswith("glm:")]
    assert len(glm) == 1
    assert "width" in SCHEMA["$defs"][glm[0]]["properties"]


def test_keys_outside_the_schema_are_closed_and_openapi_words_are_gone() -> None:
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["properties"]["variables"]["additionalProperties"] is False
    assert '"discriminator"' not in json.dumps(SCHEMA)
    assert "default" not in SCHEMA["$defs"]["CategoryVariable"]["properties"]["reference"]


def test_making_it_leaves_the_methods_schemas_alone() -> None:
    given = GlmLike.model_json_schema()
    before = json.dumps(given)
    json_schema({"glm": given})
    assert json.dumps(given) == before
