"""Trees travel and come back as they were; nothing else comes out of bytes but an error with a name. Asks likewise."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unisono.errors import ProtocolError
from unisono.federation.ask import Ask, Circle
from unisono.federation.contribution import Facts
from unisono.federation.tree import digest, pack, unpack

DTYPES = ("<f8", "<f4", "<i8", "<i4", "<u8", "<u4", "|u1", "|i1", "|b1")

arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda k: k != "$array"), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, dict):
        return isinstance(other, dict) and set(one) == set(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(trees)
def test_a_tree_comes_back_as_it_was(tree: Any) -> None:
    packed = pack(tree)
    assert same(unpack(packed), tree)
    assert pack(unpack(packed)) == packed


def test_what_comes_back_cannot_be_changed() -> None:
    array = unpack(pack({"x": np.zeros(3)}))["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@given(st.dictionaries(st.text(max_size=5), scalars, min_size=2, max_size=5))
def test_the_digest_does_not_depend_on_the_order_of_keys(tree: dict[str, Any]) -> None:
    assert digest(tree) == digest(dict(reversed(tree.items())))


def test_the_digest_depends_on_every_value_dtype_and_shape() -> None:
    variants: list[Any] = [
        {"x": np.zeros(4)},
        {"x": np.zeros(4, np.float32)},
        {"x": np.zeros((2, 2))},
        {"x": np.array([0.0, 0.0, 0.0, 1e-300])},
        {"x": [0.0] * 4},
        {"y": np.zeros(4)},
        [np.zeros(4)],
        None,
    ]
    assert len({digest(v) for v in variants}) == len(variants)


def test_big_endian_and_strided_arrays_are_the_same_as_plain_ones() -> None:
    plain = np.arange(6.0)
    assert pack(plain.astype(">f8")) == pack(plain)
    assert pack(np.arange(12.0)[::2] / 2) == pack(plain)
    assert pack(plain.reshape(2, 3).T) == pack(np.ascontiguousarray(plain.reshape(2, 3).T))


@dataclass(frozen=True)
class Pair:
    a: Any
    b: Any


def test_dataclasses_and_numpy_numbers_travel_as_plain_values() -> None:
    assert unpack(pack(Pair(np.float64(1.5), (np.int64(2), True)))) == {"a": 1.5, "b": [2, True]}


@pytest.mark.parametrize(
    "tree",
    [
        float("nan"),
        {"x": float("inf")},
        [np.float64("nan")],
        object(),
        {"x": {1, 2}},
        b"bytes",
        np.array(["text"]),
        np.array([object()]),
        np.zeros(2, np.complex128),
        np.zeros(2, np.float16),
        {"$array": 0},
        {1: 0, "a": 0},
        {9: 0, 10: 0},
        1j,
    ],
)
def test_what_does_not_travel_is_a_protocol_error(tree: Any) -> None:
    with pytest.raises(ProtocolError) as raised:
        pack(tree)
    assert raised.value.rule == "tree-format"


def test_a_tree_that_holds_itself_is_a_protocol_error() -> None:
    tree: list[Any] = []
    tree.append(tree)
    with pytest.raises(ProtocolError):
        pack(tree)


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"UNI1" + b))
def test_any_bytes_are_a_tree_or_a_protocol_error(data: bytes) -> None:
    try:
        unpack(data)
    except ProtocolError as error:
        assert error.rule == "tree-format"


@settings(max_examples=300)
@given(trees, st.data())
def test_a_packed_tree_that_was_cut_or_changed_is_a_tree_or_a_protocol_error(tree: Any, data: st.DataObject) -> None:
    packed = pack(tree)
    at = data.draw(st.integers(0, len(packed) - 1))
    flipped = packed[:at] + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + packed[at + 1 :]
    with pytest.raises(ProtocolError):
        unpack(packed[:at])
    with pytest.raises(ProtocolError):
        unpack(packed + b"x")
    try:
        unpack(flipped)
    except ProtocolError as error:
        assert error.rule == "tree-format"


headers = st.fixed_dictionaries(
    {},
    optional={
        "$array": scalars,
        "dtype": st.sampled_from([*DTYPES, "|O", "<c16"]) | scalars | st.lists(scalars, max_size=1),
        "shape": st.lists(scalars | st.sampled_from([10**30, -1, 0, True, 1.0]), max_size=3) | scalars,
    },
)


@given(headers | st.recursive(headers, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
@example({"$array": 0, "dtype": "<f8", "shape": [0, 10**30]})
@example({"$array": 0, "dtype": "<f8", "shape": ["0"]})
def test_any_skeleton_is_a_tree_or_a_protocol_error(skeleton: Any) -> None:
    text = json.dumps(skeleton).encode()
    try:
        unpack(b"UNI1" + struct.pack("<I", len(text)) + text + b"\0" * 8)
    except ProtocolError as error:
        assert error.rule == "tree-format"


@pytest.mark.parametrize(
    "text", [b"[1e999]", b"[NaN]", b"[Infinity]", b"[-Infinity]", b"[" * 100_000, b"1" * 5000, b'"\xff"']
)
def test_json_that_is_no_tree_is_a_protocol_error(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(b"UNI1" + struct.pack("<I", len(text)) + text)


# -- asks -------------------------------------------------------------------------------------------------------------

ASK = Ask(
    run="run",
    study="study",
    analysis="odds",
    method="glm",
    version=1,
    operation="sum",
    contribution="totals",
    step=3,
    epoch=0,
    attempt=2,
    sites=("leiden", "padua", "turin"),
    hide="secagg",
    encoding="exact",
    facts=Facts(226, {"age": 62.5}),
    arguments=[np.zeros(3), 1.0],
)


def test_an_ask_travels() -> None:
    carried = Ask.from_tree(unpack(pack(ASK.to_tree())))
    assert carried.digest == ASK.digest
    assert carried.question == ASK.question
    assert (carried.key, carried.circle, carried.sites) == (ASK.key, ASK.circle, ASK.sites)


def test_an_ask_to_a_site_travels() -> None:
    asked = replace(ASK, to="padua", receipt="own", encoding="fixed32", partial=True)
    carried = Ask.from_tree(unpack(pack(asked.to_tree())))
    assert carried.digest == asked.digest != ASK.digest
    assert (carried.to, carried.receipt, carried.partial) == ("padua", "own", True)


@pytest.mark.parametrize(
    "changes",
    [{"to": "padua"}, {"receipt": "own"}, {"to": "nowhere", "receipt": "own"}, {"partial": 1}, {"to": ["padua"]}],
)
def test_an_ask_that_names_no_reader_that_it_could_have_is_no_ask(changes: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as raised:
        Ask.from_tree({**ASK.to_tree(), **changes})
    assert raised.value.rule == "ask-format"


def test_an_asks_circle_is_everything_that_is_known_before_the_question() -> None:
    other = replace(ASK, step=4, attempt=1, method="cox", contribution="x", arguments=[])
    assert other.circle == ASK.circle == Circle("run", "study", "odds", 0, ASK.sites, "secagg")
    changes: list[dict[str, Any]] = [{"run": "x"}, {"study": "x"}, {"analysis": "x"}, {"epoch": 1}, {"hide": "none"}]
    assert ASK.circle not in [replace(ASK, **change).circle for change in [*changes, {"sites": ("a", "b", "c")}]]


circle_fields = st.fixed_dictionaries(dict.fromkeys(("run", "study", "analysis", "epoch", "sites", "hide"), trees))


@given(circle_fields)
@example({"run": "r", "study": "s", "analysis": "a", "epoch": True, "sites": ("a", "b"), "hide": "secagg"})
@example({"run": "r", "study": "s", "analysis": "a", "epoch": 0, "sites": ("b", "a"), "hide": "secagg"})
@example({"run": "r", "study": "s", "analysis": "a", "epoch": 0, "sites": ("a", "a"), "hide": "secagg"})
def test_any_values_are_a_circle_or_an_error(fields: dict[str, Any]) -> None:
    try:
        Circle(**fields).check_types()
    except (ValueError, TypeError):
        return
    assert type(fields["epoch"]) is int
    assert list(fields["sites"]) == sorted(set(fields["sites"]))
    assert all(type(fields[name]) is str for name in ("run", "study", "analysis", "hide"))


def test_the_digest_is_of_everything_and_the_question_of_what_is_asked() -> None:
    who = [{"run": "x"}, {"attempt": 3}, {"epoch": 1}, {"sites": ("a", "b", "c")}, {"hide": "none"}]
    what: list[dict[str, Any]] = [
        {"study": "x"},
        {"analysis": "x"},
        {"method": "x"},
        {"version": 2},
        {"operation": "mean"},
        {"contribution": "x"},
        {"step": 4},
        {"encoding": "x"},
        {"facts": Facts(227, {"age": 62.5})},
        {"facts": Facts(226, {"age": 62.6})},
        {"arguments": [np.zeros(3), 2.0]},
        {"to": "padua", "receipt": "own"},
        {"to": "turin", "receipt": "own"},
        {"to": "turin", "receipt": "other"},
        {"partial": True},
    ]
    changed = [replace(ASK, **change) for change in (*who, *what)]
    assert len({ASK.digest, *(a.digest for a in changed)}) == len(changed) + 1
    assert {a.question for a in changed[: len(who)]} == {ASK.question}
    assert len({ASK.question, *(a.question for a in changed[len(who) :])}) == len(what) + 1


@given(st.sampled_from(sorted(ASK.to_tree())), trees)
def test_an_ask_with_any_value_in_any_field_is_an_ask_or_a_protocol_error(name: str, value: Any) -> None:
    tree = {**ASK.to_tree(), name: value}
    try:
        asked = Ask.from_tree(tree)
    except ProtocolError as error:
        assert error.rule == "ask-format"
    else:
        asked.check_types()


@given(trees)
def test_any_tree_is_an_ask_or_a_protocol_error(tree: Any) -> None:
    with pytest.raises(ProtocolError):
        Ask.from_tree(tree)
