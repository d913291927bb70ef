"""What is shown on a node: text of bearable length, with line ends that both renderers keep."""

from comfyui_qr_lora.nodes.host.page.node_text import as_plain_text


def test_brackets_become_look_alikes_and_directions_are_dropped() -> None:
    assert as_plain_text("a <b>\u202e\x07c") == "a \u2039b\u203ac"


def test_line_ends_are_those_of_markdown_and_of_html() -> None:
    """One renderer takes the text for Markdown, which keeps a line end only after two spaces."""
    assert as_plain_text("one\ntwo") == "one  \ntwo"


def test_a_long_text_is_cut() -> None:
    assert as_plain_text("x" * 30_000) == "x" * 20_000 + "…"
