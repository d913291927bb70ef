"""Nodes enclosed in a subgraph, with widgets of theirs on its node."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page

from .desk import in_page

# As frontends do it: an input of the subgraph is connected to the socket of the widget, and shows it outside.
ENCLOSE = """async ([ids, shown]) => {
  app.canvas.deselectAll(); app.canvas.selectItems(ids.map(id => app.graph.getNodeById(id)));
  const { node: outer } = app.graph.convertToSubgraph(app.canvas.selectedItems);
  for (const [id, name] of shown) {
    const node = outer.subgraph.getNodeById(id), socket = node.inputs[node.findInputSlot(name)];
    outer.subgraph.addInput(name, socket.type).connect(socket, node);
  }
  return String(outer.id);
}"""
OPEN = """id => { const outer = app.graph.getNodeById(id); app.canvas.openSubgraph(outer.subgraph, outer) }"""
LOOK = """type => { const { ds, graph } = app.canvas, [x, y] = graph.nodes.find(node => node.type === type).pos;
  ds.scale = 1; ds.offset = [260 - x, 160 - y]; app.canvas.setDirty(true, true) }"""
LEAVE = "() => app.canvas.setGraph(app.graph.rootGraph ?? app.graph)"
SET = """([id, name, value]) => { const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name === name);
  widget.value = value; widget.callback?.(value) }"""
VALUES = """id => { const outer = app.graph.getNodeById(id);
  return Object.fromEntries(outer.widgets.filter(w => outer.isWidgetVisible(w)).map(w => [w.name, w.value])) }"""


class Outer:
    """The node of a subgraph."""

    def __init__(self, page: Page, ids: list[str], shown: list[tuple[str, str]]) -> None:
        self.page = page
        self.id = in_page(page, ENCLOSE, [ids, shown])

    def values(self) -> dict[str, Any]:
        """What the widgets that it shows have as values."""
        return in_page(self.page, VALUES, self.id)  # type: ignore[no-any-return]

    def set(self, name: str, value: Any) -> None:
        """Set one of its widgets, as both renderers do."""
        in_page(self.page, SET, [self.id, name, value])

    def open(self, kind: str) -> None:
        """Go inside and look at the node of a kind."""
        in_page(self.page, OPEN, self.id)
        self.page.wait_for_timeout(500)
        in_page(self.page, LOOK, kind)

    def leave(self) -> None:
        """Go outside."""
        in_page(self.page, LEAVE)
