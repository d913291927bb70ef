"""Where adapter files lie: found by a name that starts with its folder, and saved under the output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...qrlora_core import AdapterFileError

FOLDER = "qr_loras"
_SUFFIX = ".safetensors"
_OUTPUT_LABEL = f"output/{FOLDER}"


def register_folders() -> None:
    """Make ``models/qr_loras`` a model folder of the host, so that ``extra_model_paths.yaml`` can add to it."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, {_SUFFIX})


def output_folder() -> Path:
    """Where `QRLoRA_Save` writes."""
    return Path(folder_paths.get_output_directory()) / FOLDER


def _roots() -> Iterator[tuple[str, Path]]:
    """(label, folder): the label is the first part of an adapter's name."""
    for label in (FOLDER, "loras"):
        for folder in folder_paths.get_folder_paths(label):
            yield label, Path(folder)
    yield _OUTPUT_LABEL, output_folder()


def adapter_names() -> list[str]:
    """Names of all safetensors files where adapters may lie, such as ``output/qr_loras/cat.safetensors``."""
    names: dict[str, None] = {}
    for label, folder in _roots():
        if folder.is_dir():
            files, _ = folder_paths.recursive_search(str(folder), excluded_dir_names=[".git"])
            names.update({f"{label}/{Path(file).as_posix()}": None for file in files if file.endswith(_SUFFIX)})
    return sorted(names)


def adapter_path(name: str) -> Path:
    """The file that a name from `adapter_names` means.

    Raises:
        AdapterFileError: no such file, or a name that leads out of the folder.
    """
    for label, folder in _roots():
        if not name.startswith(f"{label}/"):
            continue
        relative = os.path.normpath(name.removeprefix(f"{label}/").replace("\\", "/"))
        if Path(relative).is_absolute() or relative.startswith("..") or ":" in relative:
            raise AdapterFileError(f"{name!r}: this name leads out of the folder {label}; choose a file inside it.")
        if (folder / relative).is_file():
            return folder / relative
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

    Raises:
        AdapterFileError: an empty prefix, or one that leads out of the folder.
    """
    if not filename_prefix.strip():
        raise AdapterFileError("filename_prefix: expected a name such as 'style', found nothing.")
    root = output_folder()
    root.mkdir(parents=True, exist_ok=True)
    try:
        folder, stem, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, str(root))
    except Exception as error:  # the host raises a bare Exception for a path outside
        raise AdapterFileError(
            f"filename_prefix {filename_prefix!r} leads out of {root}; use a plain name or subfolder/name."
        ) from error
    return Path(folder) / f"{stem}_{counter:05}_{_SUFFIX}"
