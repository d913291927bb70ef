"""The table of presets in docs/training.md, from the table that trainings take: `python -m generators.presets`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devtools.environment import ROOT, say, write_atomically
from devtools.host import boot, import_pack

if TYPE_CHECKING:
    from comfyui_qr_lora.nodes.host.train.presets.families import Family

PAGE = ROOT / "docs" / "training.md"
START, END = "<!-- presets: made by python -m generators.presets -->", "<!-- /presets -->"
_TWENTY = 20
_SHOWN = ("learning_rate", "rank", "alpha", "steps", "grad_accumulation")
_HEAD = ("Family", "`preset`", *(f"`{name}`" for name in _SHOWN), "Layers", "Size", "Source")


def table() -> str:
    """A row for each family and preset; the steps of many pictures are those for twenty."""
    from comfyui_qr_lora.nodes.host.train.presets.families import ANY_OTHER, FAMILIES
    from comfyui_qr_lora.nodes.host.train.presets.preset import NO_PRESET, PRESET_NAMES

    rows = [_row(family, name) for family in (*FAMILIES, ANY_OTHER) for name in PRESET_NAMES if name != NO_PRESET]
    lines = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(family: Family, name: str) -> tuple[str, ...]:
    from comfyui_qr_lora.nodes.host.train.presets.preset import preset_values, setting_of

    setting, values = setting_of(family, name), preset_values(family, name, _TWENTY, on_cpu=False)
    layers = ", ".join(f"`{pattern}`" for pattern in setting.blocks.split()) or "paper"
    least, most = setting.size or ("-", "-")
    size = f"{least}" if least == most else f"{least} to {most}"
    shown = (f"{values[name]:g}" for name in _SHOWN)
    return (family.title, name, *shown, layers, size, setting.source)


def with_table(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(START)
    return f"{before}{START}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Command line of this module."""
    boot(nodes=True)
    import_pack()
    write_atomically(PAGE, with_table(PAGE.read_text(encoding="utf-8")))
    say(f"{PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
