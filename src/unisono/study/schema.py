"""The JSON Schema (2020-12) of a whole study document, for editors that complete and check while one writes.

The schema says what shape a study has. What only makes sense together (unknown variables, grids, expressions) is found
by `unisono.study.load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.study.document import SLUG, Study

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def json_schema(methods: Mapping[str, Mapping[str, Any]]) -> Schema:
    """The schema of a study whose analyses are among `methods`: by name, the JSON schema of the method's parameters."""
    schema = Study.model_json_schema()
    definitions: Schema = schema.pop("$defs")
    definitions.pop("Analysis", None)
    choices = []
    for name, parameters in sorted(methods.items()):
        key = f"analysis:{name}"
        definitions[key] = _analysis(name, parameters, definitions)
        choices.append({"$ref": f"#/$defs/{key}"})
    schema["properties"]["analyses"] = {
        "type": "object",
        "title": "Analyses",
        "minProperties": 1,
        "propertyNames": {"pattern": SLUG},
        "additionalProperties": {"oneOf": choices} if choices else False,
    }
    complete = {"$schema": DIALECT, **schema, "title": "Unisono study", "$defs": definitions}
    tidy: Schema = _tidy(complete)
    return tidy


def _analysis(name: str, parameters: Mapping[str, Any], definitions: Schema) -> Schema:
    """The schema of one analysis: the method's parameters and its name. The method's own definitions get the method's
    name before theirs, because two methods may call different things alike."""
    prefix = f"{name}:"
    for key, definition in parameters.get("$defs", {}).items():
        definitions[prefix + key] = _renamed(definition, prefix)
    body: Schema = _renamed({k: v for k, v in parameters.items() if k not in ("$defs", "$schema")}, prefix)
    body["title"] = name
    body["properties"] = {"method": {"const": name}, **body.get("properties", {})}
    body["required"] = ["method", *body.get("required", [])]
    return {"type": "object", "additionalProperties": False, **body}


def _renamed(schema: Any, prefix: str) -> Any:
    """A copy whose references to ``#/$defs/X`` lead to ``#/$defs/<prefix>X``."""
    if isinstance(schema, Mapping):
        return {
            key: value.replace("#/$defs/", f"#/$defs/{prefix}", 1)
            if key == "$ref" and isinstance(value, str)
            else _renamed(value, prefix)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_renamed(item, prefix) for item in schema]
    return schema


def _tidy(schema: Any) -> Any:
    """Without OpenAPI's `discriminator`, which JSON Schema does not know, and mappings closed to other keys."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tagged = isinstance(schema.get("discriminator"), dict) and "propertyName" in schema["discriminator"]
    tidy = {key: _tidy(value) for key, value in schema.items() if not (tagged and key == "discriminator")}
    if "patternProperties" in tidy:
        tidy.setdefault("additionalProperties", False)
    if tidy.get("default") == "":  # "chosen for you" (a category's reference), not an empty text
        del tidy["default"]
    return tidy
