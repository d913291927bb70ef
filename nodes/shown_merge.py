"""A merge for a node that shows what was applied, while it runs and after each sampling."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from .host.apply.source import Source
from .host.merge.combine import Combination
from .host.merge.merge import Applied, apply_adapters
from .host.merge.report import as_text
from .host.model.host_types import Clip, Patcher
from .host.page.node_text import text_shower


def apply_and_show(
    node: type[io.ComfyNode],
    model: Patcher,
    sources: Sequence[Source],
    apply: str,
    how: Combination,
    clip: Clip | None,
    clip_scale: float = 1.0,
    more: Sequence[str] = (),
) -> tuple[Applied, str]:
    """See `apply_adapters`; the report, with more lines in it, is shown on the node and returned."""
    show, shown = text_shower(node), list[str]()

    def tell(lines: list[str]) -> None:  # holds no model: the model holds it
        show(as_text([*shown, *lines]))

    applied = apply_adapters(model, sources, apply, how=how, clip=clip, clip_scale=clip_scale, tell=tell)
    shown += [*applied.lines, *more]
    report = as_text([*shown, *applied.last])
    show(report)
    return applied, report
