"""A real ComfyUI inside this process, and the pack under an alias."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path

from devtools.environment import ROOT
from devtools.server import comfyui_dir

__all__ = ["PACK_ALIAS", "boot", "comfyui_dir", "import_pack"]

PACK_ALIAS = "comfyui_qr_lora"


def boot(*, nodes: bool = False, server: bool = False, base: Path | None = None, gpu: bool | None = None) -> None:
    """Make `comfy` and `folder_paths` importable; a second call with the same arguments does nothing.

    Args:
        nodes: load the host's built-in nodes as well (`import nodes` then has all of them).
        server: make the host's server before the nodes, some of which tell it about themselves; nobody listens to it.
        base: folder of models, input and output; by default a temporary one.
        gpu: whether to use one; by default where QRLORA_TEST_DEVICE is cuda.

    Raises:
        RuntimeError: host modules, or another module named `nodes`, were imported before.
    """
    _boot_core(base, os.environ.get("QRLORA_TEST_DEVICE") == "cuda" if gpu is None else gpu)
    if server:
        _make_server()
    if nodes:
        _load_nodes()


@functools.cache
def _boot_core(base: Path | None, gpu: bool) -> None:
    early = {"comfy.cli_args", "folder_paths", "nodes"} & sys.modules.keys()
    if early:
        raise RuntimeError(f"call boot() before anything imports {', '.join(sorted(early))}")
    # Ahead of the repository root, whose folder `nodes` would shadow the host's module.
    sys.path.insert(0, str(comfyui_dir()))
    import comfy.options  # noqa: F401  (args are parsed at import: it must not see our command line)
    from comfy.cli_args import args

    args.cpu = not gpu
    if gpu:
        _stream_weights()
    args.base_directory = str(base) if base else _temporary_base()
    args.disable_api_nodes = True
    _register_output_folders()


def _stream_weights() -> None:
    """What the main.py of newer hosts does on a GPU: weights come to it while the network runs ("dynamic VRAM")."""
    try:
        from comfy.cli_args import enables_dynamic_vram
        from comfy_aimdo import control
    except ImportError:  # an older host
        return
    if not (enables_dynamic_vram() and control.init()):  # before the modules that take its library at their import
        return
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    if control.init_devices([(device.index, 0) for device in comfy.model_management.get_all_torch_devices()]):
        control.set_log_warning()
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True


def _temporary_base() -> str:
    base = tempfile.mkdtemp(prefix="qrlora-")
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    for name in ("models", "custom_nodes", "input", "output", "user"):
        (Path(base) / name).mkdir()
    return base


def _register_output_folders() -> None:
    """What the host's main.py does at its start: saved models can be loaded again."""
    import folder_paths

    for name in ("checkpoints", "clip", "vae", "diffusion_models", "loras"):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.get_output_directory(), name))


@functools.cache
def _make_server() -> None:
    import utils.install_util  # noqa: F401  (the host's `utils`, before another package of that name)
    from server import PromptServer

    PromptServer(asyncio.new_event_loop())  # which keeps it as its `instance`


@functools.cache
def _load_nodes() -> None:
    import utils.install_util  # noqa: F401  (the host's `utils`, before another package of that name)

    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))


def import_pack() -> types.ModuleType:
    """Return the pack as the package `comfyui_qr_lora`, whose submodules import as they do inside the host.

    The root `__init__` is not executed, so `comfyui_qr_lora.qrlora_core` needs no host.
    """
    if PACK_ALIAS not in sys.modules:
        module = types.ModuleType(PACK_ALIAS)
        module.__path__ = [str(ROOT)]
        sys.modules[PACK_ALIAS] = module
    return sys.modules[PACK_ALIAS]
