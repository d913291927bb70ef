"""ComfyUI QR-LoRA: compose content and style adapters. ComfyUI loads this package as a custom node pack."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
