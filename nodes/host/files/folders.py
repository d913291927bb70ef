"""Where adapter files lie: found by a name that starts with its folder, and saved under the output folder.

What the host lists is listed, wherever links lead that somebody made on this machine. Names come from prompts, so from
anybody: none leads out of the host's folders by itself, and nothing is written where a link leads out of them.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....qrlora_core import UNREADABLE, AdapterFileError
from ....qrlora_core.files.safetensors_io import SUFFIX

FOLDER = "qr_loras"
SUFFIXES = {SUFFIX, ".sft"}  # in any case, as for the host
ON_WINDOWS = os.name == "nt"
_OUTPUT_LABEL = f"output/{FOLDER}"
_MARKUP = re.compile("[<>]")  # one of the host's renderers shows the entries of a list as HTML
_UNPORTABLE = re.compile('[<>:"|?*]')  # what Windows allows in no name
_DRIVE = re.compile(r"[A-Za-z]:")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
_LONGEST = 255  # bytes of one name, on the file systems in use
_TIMES = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}


def register_folders() -> None:
    """Make ``models/qr_loras`` a model folder of the host, so that ``extra_model_paths.yaml`` can add to it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, set(SUFFIXES))


def output_folder() -> Path:
    """Where `QRLoRA_Save` writes."""
    return Path(folder_paths.get_output_directory()) / FOLDER


def _roots() -> Iterator[tuple[str, Path]]:
    """(label, folder): the label is the first part of an adapter's name."""
    for label in (FOLDER, "loras"):
        for folder in _model_folders(label):
            yield label, Path(folder)
    yield _OUTPUT_LABEL, output_folder()


def _model_folders(label: str) -> list[str]:
    try:
        folders: list[str] = folder_paths.get_folder_paths(label)
    except KeyError:  # `register_folders` is for the server; a training without one needs no models folder
        return []
    return folders


def adapter_names() -> list[str]:
    """Names of all safetensors files where adapters may lie, such as ``output/qr_loras/cat.safetensors``.

    What `adapter_path` would refuse is left out, and logged once.
    """
    return sorted(adapter_files())


def adapter_files() -> dict[str, Path]:
    """Name to file of `adapter_names`: the file that `adapter_path` gives."""
    found: dict[str, Path] = {}
    for label, folder in _roots():
        for file in _files(folder):
            found.setdefault(f"{label}/{file}", folder / file)
    return found


def _files(root: Path) -> Iterator[str]:
    """Relative names of the adapter files below, through links, as the host lists them; a circle of links is left."""
    above: dict[str, frozenset[str]] = {}  # folder to the real ones that lead to it
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real, before = os.path.realpath(folder), above.pop(folder, frozenset())
        for name in sorted(files) if real not in before else ():
            suffix = os.path.splitext(name)[1]  # noqa: PTH122 (the host's own rule)
            if suffix.lower() in SUFFIXES and _can_list(folder, name):
                yield Path(folder, name).relative_to(root).as_posix()
        subfolders[:] = [
            name for name in sorted(subfolders) if real not in before and name != ".git" and _can_list(folder, name)
        ]
        above |= {os.path.join(folder, name): before | {real} for name in subfolders}


def _can_list(folder: str, name: str) -> bool:
    what = repr(os.path.join(folder, name))
    try:
        relative_parts(name, what, folder)
    except AdapterFileError as error:
        _log_once(str(error))
        return False
    return True


@functools.cache
def _log_once(text: str) -> None:
    """The list is made anew for every prompt."""
    logging.warning("QR-LoRA: not listed: %s", text)


def adapter_path(name: str) -> Path:
    """The file that a name from `adapter_names` means, on this system or on another, whichever way slashes lean there.

    Raises:
        AdapterFileError: no such file, or a name that leads out of the folder.
    """
    for label, folder in _roots():
        if not name.replace("\\", "/").startswith(f"{label}/"):
            continue
        inner = name[len(label) + 1 :]
        parts = relative_parts(inner, repr(name), label)
        for path in (folder.joinpath(*inner.split("/")), folder.joinpath(*parts)):
            if os.path.isfile(path):  # noqa: PTH113 (`Path.is_file` raises where it may not look)
                return path
    folders = ", ".join(dict.fromkeys(str(folder) for _, folder in _roots()))
    raise AdapterFileError(
        f"{name!r}: no such adapter file. It was moved, renamed or deleted. Looked in: {folders}. "
        "Press R to refresh the list, then choose another."
    )


def name_of(path: Path) -> str:
    """The name under which `QRLoRA_Load` finds a file in the output folder."""
    return f"{_OUTPUT_LABEL}/{path.relative_to(output_folder()).as_posix()}"


def new_output_path(filename_prefix: str) -> Path:
    """A path under ``output/qr_loras`` that is not taken: ``<prefix>_00001_.safetensors`` and so on.

    The host's own ``get_save_image_path`` makes folders where a link leads, and so is of no use here.

    Raises:
        AdapterFileError: an empty prefix, or one that leads out of the folder.
    """
    root, what = output_folder(), f"filename_prefix {filename_prefix!r}"
    parts = relative_parts(_with_date(filename_prefix), what, str(root), added=f"_00001_{SUFFIX}")
    if not parts or not filename_prefix.strip():
        raise AdapterFileError("filename_prefix: expected a name such as 'style', found nothing.")
    *subfolders, stem = parts
    folder = require_inside(root.joinpath(*subfolders), what)
    return folder / f"{stem}_{_next_number(folder, stem, what):05}_{SUFFIX}"


def _with_date(prefix: str) -> str:
    """With the host's placeholders of time filled in, as its own nodes do."""
    now = time.localtime()
    for name, code in _TIMES.items():
        prefix = prefix.replace(f"%{name}%", time.strftime(code, now))
    return prefix


def _next_number(folder: Path, stem: str, what: str) -> int:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise AdapterFileError(f"{what}: {folder} cannot be used ({error.strerror}). Choose another name.") from error
    pattern = re.compile(rf"{re.escape(stem)}_([0-9]{{1,9}})_.*", re.IGNORECASE)  # as some file systems do
    return max((int(found[1]) for found in map(pattern.match, names) if found), default=0) + 1


def relative_parts(name: str, what: str, folder: str, *, added: str | None = None) -> list[str]:
    """The folders and the file of a relative name, parted by slashes of either kind, empty ones left out.

    What is to be made has a name that every system allows; what is there, one that this system does. On Windows a name
    may mean a device, a drive or a stream of another file.

    Args:
        what: begins the message. folder: ends it.
        added: what the name of a file that is to be made ends in; None for one that is there.

    Raises:
        AdapterFileError: it leads out of any folder, or is no name.
    """
    written, name = added is not None, name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    everywhere = written or ON_WINDOWS
    to_drive = everywhere and _DRIVE.match(name)
    if name.startswith("/") or to_drive or any(part.rstrip(" ") == ".." for part in parts):
        if written:
            raise AdapterFileError(f"{what} leads out of {folder}; use a plain name or subfolder/name.")
        raise AdapterFileError(f"{what}: this name leads out of the folder {folder}; choose a file inside it.")
    for part in [*parts[:-1], *(last + (added or "") for last in parts[-1:])]:
        if fault := _fault(part, everywhere=everywhere):
            raise AdapterFileError(f"{what}: {fault}. Use letters, digits, spaces, dots, hyphens and underscores.")
    return parts


def _fault(part: str, *, everywhere: bool) -> str | None:
    """What is wrong with the name of one file or folder: on every system, or on this one and in a list."""
    if UNREADABLE.search(part):
        return "the name has characters that cannot be shown"
    if found := (_UNPORTABLE if everywhere else _MARKUP).search(part):
        return f"the name has the character {found[0]}"
    if (size := len(os.fsencode(part))) > _LONGEST:
        return f"the name is too long: at most {_LONGEST} bytes, found {size}"
    if everywhere and part.endswith((".", " ")):
        return "the name of a file or folder ends in a dot or a space"
    is_device = everywhere and _DEVICE.fullmatch(part.partition(".")[0].rstrip(" "))
    return f"{part} is a device on Windows" if is_device else None


def is_inside(path: Path) -> bool:
    """Whether the file or folder, all links followed, lies in one of the folders of adapters."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for _, folder in _roots())


def is_file_beside(path: Path, largest: int) -> bool:
    """Whether what is named beside an adapter is a file of at most so many bytes, there or in a folder of adapters.

    A link may lead to the folder; one that leads from it to a file elsewhere may lead to anything.
    """
    try:
        is_there = os.path.realpath(path) == os.path.join(os.path.realpath(path.parent), path.name)
        return path.is_file() and (is_there or is_inside(path)) and path.stat().st_size <= largest
    except OSError:  # gone, or not to be looked at
        return False


def require_inside(path: Path, what: str) -> Path:
    """The path, if `is_inside`.

    A folder of adapters may itself be a link; a link inside one may lead to another, and nowhere else.

    Raises:
        AdapterFileError: it leads elsewhere; the message names the link.
    """
    if is_inside(path):
        return path
    link = _way_out(path)
    raise AdapterFileError(
        f"{what}: {link} is a link to {os.path.realpath(link)}, outside the folders of adapters. "
        "To use what lies there, add the folder it points to to extra_model_paths.yaml, under loras or qr_loras."
    )


def _way_out(path: Path) -> Path:
    """The first part of the path that is outside, below the folder of adapters that it begins with."""
    root = next((folder for _, folder in _roots() if path.is_relative_to(folder)), path)
    parts = [part for part in (*reversed(path.parents), path) if part.is_relative_to(root)]
    return next(part for part in parts if not is_inside(part))
