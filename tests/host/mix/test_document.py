"""A mix as JSON: what is written is what is read, and what is wrong is named with its place."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_qr_lora.nodes.host.mix.document import MOST_ROWS, Mix, Row, as_json, parse_mix
from comfyui_qr_lora.nodes.host.mix.errors import TEXTS, MixError
from devtools.environment import ROOT

FILE = "loras/cat.safetensors"
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)
SCALE = st.floats(-100, 100)
ROWS = st.builds(
    Row,
    file=TEXT,
    on=st.booleans(),
    solo=st.booleans(),
    scale=SCALE,
    clip_scale=st.none() | SCALE,
    blocks=st.sampled_from(["", "double_blocks.*: 0.5", "a.1?: 0\nb: -2"]),
    schedule=st.sampled_from(["", "early", "ramp down", "0:1, 0.5:0.25", "0:1"]),
    size=st.integers(0, 2**53),
    sha256=st.sampled_from(["", "0123456789abcdef" * 4]),
)


@given(st.builds(Mix, st.lists(ROWS, max_size=MOST_ROWS).map(tuple), st.booleans()))
def test_what_is_written_is_read(mix: Mix) -> None:
    assert parse_mix(json.dumps(as_json(mix))) == mix


def test_the_least_that_is_a_mix() -> None:
    assert parse_mix("") == parse_mix(" \n") == Mix()
    assert parse_mix('{"version": 1, "rows": []}') == Mix()
    assert parse_mix(one_row()) == Mix((Row(FILE),))
    assert as_json(Mix((Row(FILE),))) == {"version": 1, "rows": [{"file": FILE}]}


@pytest.mark.parametrize(
    ("rows", "heard"),
    [
        ([{}, {}, {}], [1, 2, 3]),
        ([{"on": False}, {}, {}], [2, 3]),
        ([{}, {"solo": True}, {}], [2]),
        ([{"solo": True}, {"solo": True}, {}], [1, 2]),
        ([{"solo": True, "on": False}, {}, {}], []),
        ([], []),
    ],
)
def test_who_is_heard(rows: list[dict[str, Any]], heard: list[int]) -> None:
    told = {"version": 1, "rows": [{"file": FILE, **row} for row in rows]}
    assert [number for number, _ in parse_mix(json.dumps(told)).heard()] == heard
    assert parse_mix(json.dumps(told | {"on": False})).heard() == []


def one_row(**fields: Any) -> str:
    return json.dumps({"version": 1, "rows": [{"file": FILE, **fields}]})


WRONG = {
    # A text, and what its refusal says.
    "[]": "mix: expected a JSON object, found []",
    "7": "found 7",
    "null": "found None",
    '"mix"': "found 'mix'",
    "{": "not JSON at line 1, column 2",
    '{"version": 1,\n "rows": [}': "line 2, column 11",
    "{}": "mix, version: expected 1, found None",
    '{"version": 2, "rows": []}': "version: expected 1, found 2",
    '{"version": true, "rows": []}': "version: expected 1, found True",
    '{"version": "1", "rows": []}': "found '1'",
    '{"version": 1.0, "rows": []}': "found 1.0",
    '{"version": 1}': "rows: expected a list of at most 64 rows, found None",
    '{"version": 1, "rows": {}}': "found {}",
    '{"version": 1, "rows": [], "row": 1}': "'row' is not known; a mix has version, on, rows",
    '{"version": 1, "rows": [], "on": 1}': "mix, on: expected true or false, found 1",
    '{"version": 1, "rows": [], "rows": []}': "'rows' stands twice",
    '{"version": 1, "rows": [1]}': "mix, row 1: expected a JSON object, found 1",
    '{"version": 1, "rows": [{"file": "a"}, []]}': "mix, row 2: expected a JSON object",
    '{"version": 1, "rows": [{}]}': "row 1, file: expected the name of an adapter file, found ''",
    json.dumps({"version": 1, "rows": [{"file": FILE}] * 65}): "at most 64 rows, found 65",
    "[" * 100_000: "too deep",
    '{"version": ' + "1" * 5000 + "}": "number too long",
    " " * 5 + "x" * 1_000_001: "at most 1000000 characters",
    one_row(file=["a"]): "row 1, file: expected the name of an adapter file, found ['a']",
    one_row(strenght=1): "row 1: 'strenght' is not known; a row has file, on, solo, scale",
    one_row(on="yes"): "row 1, on: expected true or false, found 'yes'",
    one_row(solo=0): "row 1, solo: expected true or false, found 0",
    one_row(scale="1"): "row 1, scale: expected a number from -100 to 100, found '1'",
    one_row(scale=True): "scale: expected a number from -100 to 100, found True",
    one_row(scale=None): "scale: expected a number",
    one_row(scale=100.5): "found 100.5",
    one_row(scale=math.nan): "found nan",
    one_row(clip_scale=-math.inf): "row 1, clip_scale: expected a number from -100 to 100, found -inf",
    one_row(clip_scale=[]): "clip_scale",
    one_row(scale=10**400): "scale: expected a number",
    one_row(blocks=5): "row 1, blocks: expected text of at most 4000 characters, found 5",
    one_row(blocks="x" * 4001): "blocks: expected text of at most 4000 characters",
    one_row(blocks="double_blocks.*"): f"row 1 ({FILE}): blocks: expected pattern: factor",
    one_row(schedule="sideways"): f"row 1 ({FILE}): curve: expected one of constant",
    one_row(schedule="1:0, 0:1"): "must come in the order of progress",
    one_row(schedule="0:1, 2:1"): "expected progress 0 to 1",
    one_row(schedule=None): "row 1, schedule: expected text",
    one_row(size=-1): "row 1, size: expected a number of bytes, found -1",
    one_row(size=1.5): "size",
    one_row(size=2**60): "size",
    one_row(sha256="abc"): "row 1, sha256: expected 64 hexadecimal digits, found 'abc'",
    one_row(sha256=5): "sha256",
}


@pytest.mark.parametrize("text", WRONG, ids=[message[:40] for message in WRONG.values()])
def test_what_is_wrong_is_named_with_its_place(text: str) -> None:
    with pytest.raises(MixError) as refused:
        parse_mix(text)
    assert WRONG[text] in str(refused.value)
    assert len(str(refused.value)) < 400


@given(st.data())
def test_torn_mixes_are_refused_or_read(data: st.DataObject) -> None:
    """Whatever becomes of a text, it is a mix or a `MixError`."""
    text = json.dumps(as_json(Mix((Row(FILE, scale=0.5, blocks="a: 1", schedule="early"), Row("b", on=False)))))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        parse_mix(text[:start] + data.draw(st.text(max_size=5)) + text[end:])
    except MixError as error:
        assert error.key in TEXTS  # noqa: PT017 (or nothing is raised)


def test_the_page_says_the_same() -> None:
    """Its English texts are those of the server."""
    texts = json.loads((ROOT / "web" / "texts" / "en.json").read_text("utf-8"))
    assert {key: texts.get(key) for key in TEXTS} == TEXTS
