"""Files as each trainer names their layers: what ComfyUI's own loader does with them, and what we do."""

import pytest

from devtools import tiny_models
from devtools.host import comfyui_dir
from devtools.trainers.layout import Layout, Rows, expanded
from devtools.workspace import host_version
from generators import layouts

TOLERANCE = 1e-6  # relative to what a layer adds
HOST = host_version(comfyui_dir())
COLUMN = layouts.columns_in(layouts.PAGE.read_text(encoding="utf-8")).get(HOST)
CASES = [
    pytest.param(layout, name, id=f"{layout.trainer}-{name}", marks=pytest.mark.skipif(bool(why), reason=why))
    for layout, name in layouts.cases()
    for why in [tiny_models.lacking(name) if name in tiny_models.NAMES else ""]
]


@pytest.mark.parametrize(("layout", "name"), CASES)
def test_every_layer_is_where_comfyui_puts_it_or_where_it_belongs(layout: Layout, name: str) -> None:
    assert name in tiny_models.NAMES, "no such small model"
    loaded = layouts.check(layout, name)
    assert loaded.stock <= loaded.ours, sorted(loaded.stock - loaded.ours)
    known = loaded.stock | loaded.explained
    assert loaded.ours == known, sorted(loaded.ours ^ known)
    assert layout.strange() == {*loaded.names} - known
    assert {key: error for key, error in loaded.errors().items() if not error <= TOLERANCE} == {}
    if COLUMN is not None:
        assert COLUMN[layouts.key_of(layout, name)] == loaded.cell()


def test_the_table_has_every_trainer_and_model_once() -> None:
    pairs = [layouts.key_of(layout, name) for layout, name in layouts.cases()]
    assert len({*pairs}) == len(pairs)
    if COLUMN is not None:
        assert [*COLUMN] == pairs


def test_a_pattern_is_all_the_names_that_it_stands_for() -> None:
    assert expanded("a.{0..1}.{q,k}.b") == ["a.0.q.b", "a.0.k.b", "a.1.q.b", "a.1.k.b"]
    assert expanded("a") == ["a"]


def test_rows_are_equal_parts_of_a_weight() -> None:
    assert Rows.of("a.qkv[2/3]").within(12) == (8, 4)
    assert Rows.of("a.linear1[0:3/7]").within(14) == (0, 6)
    assert Rows.of("a.proj").within(5) == (0, 5)
    with pytest.raises(ValueError, match="no 3 equal parts"):
        Rows.of("a.qkv[0/3]").within(4)
