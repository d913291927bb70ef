"""What works with which model, found out by doing it on a small model of each architecture.

`python -m generators.support` keeps what it finds on the ComfyUI at hand in `nodes/host/model/tried.json`, leaves what
was found on others, and makes the table in README.md of all; a test does the same checks and compares.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from devtools import tiny_models
from devtools.environment import ROOT
from devtools.host import boot, comfyui_dir, import_pack
from devtools.workspace import host_version
from generators.model_check import ASPECTS, check

START, END = "<!-- support: made by python -m generators.support -->", "<!-- /support -->"
RECORD = ROOT / "nodes" / "host" / "model" / "tried.json"
_LACKING = "not in it"
# ComfyUI's version to model to aspect to answer; with the name of the host's class.
Found = dict[str, dict[str, dict[str, str]]]


def recorded() -> Found:
    """What was found on each ComfyUI."""
    found: Found = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def answers_of(name: str) -> dict[str, str]:
    """What the record says of a model on the ComfyUI at hand, found out now."""
    found = check(name)
    print(name, " ".join(f"{what} {error:.1e}" for what, error in found.errors.items()), flush=True)
    return {"class": tiny_models.config_of(name), **found.answers()}


def table(found: Found) -> str:
    """Markdown: a row for each model, a column for each thing that is asked of it, and the reasons below."""
    hosts, notes = sorted(found, key=_ordered), list[str]()
    head = ["Model", "ComfyUI", *ASPECTS, "names"]
    lines = [head, ["---"] * len(head)]
    lines += [_row(name, {host: found[host][name] for host in hosts if name in found[host]}, notes)
              for name in tiny_models.NAMES]  # fmt: skip
    rows = [f"| {' | '.join(line)} |" for line in lines]
    reasons = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*rows, *(["", *reasons] if reasons else [])])


def _row(name: str, by_host: Mapping[str, Mapping[str, str]], notes: list[str]) -> list[str]:
    since = next(iter(by_host), _LACKING)
    cells = [_cell(name, aspect, {host: told[aspect] for host, told in by_host.items()}, notes)
             for aspect in (*ASPECTS, "names")]  # fmt: skip
    return [tiny_models.TITLES[name], since if since == _LACKING else f"{since} on", *cells]


def _cell(name: str, aspect: str, by_host: Mapping[str, str], notes: list[str]) -> str:
    """One answer where all hosts give the same, else the newest's and what older ones give."""
    hosts = list(by_host)
    if not hosts:
        return ""
    newest = hosts[-1]
    others = [f"{host}: {by_host[host]}" for host in hosts[:-1] if by_host[host] != by_host[newest]]
    told = "; ".join([by_host[newest], *others])
    return told + _noted(tiny_models.limits_of(name).get(aspect), notes) if "no" in by_host.values() else told


def _noted(reason: str | None, notes: list[str]) -> str:
    if reason is None:
        return ""
    if reason not in notes:
        notes.append(reason)
    return f" ({notes.index(reason) + 1})"


def _ordered(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def unserved() -> list[str]:
    """A line for each reason for which classes of the host have no row."""
    reasons: dict[str, list[str]] = {}
    for config, reason in tiny_models.UNSERVED.items():
        reasons.setdefault(reason, []).append(config)
    return [f"- {', '.join(configs)}: {reason}." for reason, configs in reasons.items()]


def written() -> str:
    """What stands between the marks in README.md."""
    return "\n".join([table(recorded()), "", "Not served:", "", *unserved()])


def standing(text: str) -> str:
    """What a document has between the marks."""
    inside = re.search(f"{re.escape(START)}\n(.+?)\n{re.escape(END)}", text, re.DOTALL)
    return "" if inside is None else inside[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check models, keep what was found and write the table; 1 when something does not work."""
    parser = argparse.ArgumentParser(prog="python -m generators.support", description=__doc__)
    parser.add_argument("--print", action="store_true", help="print what is found, write nothing")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a small model; all, when none is named")
    options = parser.parse_args(arguments)
    boot(nodes=True)
    import_pack()
    found = _found(options.names or tiny_models.NAMES)
    if options.print:
        print(json.dumps(found, indent=1))
    else:
        _keep(host_version(comfyui_dir()), found)
        _write(ROOT / "README.md", written())
    return int(any("no" in answers.values() for answers in found.values()))


def _found(names: Iterable[str]) -> dict[str, dict[str, str]]:
    from comfyui_qr_lora.nodes.host.files.folders import register_folders

    register_folders()
    torch.set_num_threads(1)
    with torch.inference_mode():
        tried = {name: _answers_or_none(name) for name in names if not tiny_models.lacking(name)}
    return {name: answers for name, answers in tried.items() if answers}


def _answers_or_none(name: str) -> dict[str, str] | None:
    """None after an error, which is told: the other models are checked all the same."""
    try:
        return answers_of(name)
    except Exception:
        logging.exception("%s could not be checked, and stays as it was recorded", name)
        return None


def _keep(host: str, found: dict[str, dict[str, str]]) -> None:
    """In the order of the registry; other models stay as they were found before."""
    everything = recorded()
    kept = everything.get(host, {}) | found
    everything[host] = {name: kept[name] for name in tiny_models.NAMES if name in kept}
    RECORD.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, made: str) -> None:
    text = path.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    path.write_text(f"{before}{START}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
