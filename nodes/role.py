"""`QRLoRA_Role`: how far a training for a role varies its pictures, and what its caption teaches."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.page.node_text import show_text
from .host.train.role.captions import BY_CAPTION, LANGUAGES, describe_caption, read_caption
from .host.train.role.settings import BY_STRENGTH, GROUNDS, LIMITS, STRENGTHS, RoleSettings
from .sockets import CATEGORY, RoleSocket

_DEFAULT = RoleSettings()
_NUMBERS = {
    "levels": "Both roles: how far noise levels are bent, to high noise for content and to low noise for style.",
    "colour": "Content: how far the colours are turned, 1 to any others.",
    "light": "Content: how far contrast, brightness and the side of the light change.",
    "texture": "Content: how far fine detail is smoothed or sharpened, with grain.",
    "zoom": "Style: how much larger or smaller, in octaves: 1 is half to double.",
    "shift": "Style: how far, as a share of half the picture; what comes in is mirrored.",
    "tilt": "Style: how far, in degrees, to either side.",
    "flip": "Style: share of the variants with left for right.",
    "patch": "Style: side of the smallest window that is mirrored to fill the picture, as a share of it; 1 is all.",
    "tiles": "Style: the picture is cut into at most so many tiles on a side, which are mixed; 1 leaves it whole.",
}


class Role(io.ComfyNode):
    """Settings of a role."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See `io.Schema`."""
        return io.Schema(
            node_id="QRLoRA_Role",
            display_name="QR-LoRA Role",
            category=CATEGORY,
            description="How far Train QR-LoRA varies its pictures for a role, and which words of a caption name the "
            "look of a thing instead of the thing. Everything is set by strength unless a number is given.",
            inputs=[
                io.Combo.Input(
                    "strength", options=list(STRENGTHS), default=_DEFAULT.strength,
                    tooltip="How far everything is varied whose number below is -1. Begin with mild: what is varied "
                    "too far is not learned.",
                ),
                io.Int.Input(
                    "variants", default=_DEFAULT.variants, min=1, max=1000, optional=True,
                    tooltip="How many variants of each picture, itself among them, are made before the first step.",
                ),
                io.Combo.Input(
                    "ground", options=list(GROUNDS), default=_DEFAULT.ground, optional=True,
                    tooltip="For content with a mask, what becomes of its black part. varied: as the thing. kept: as "
                    "it is. replaced: soft patches of colour.",
                ),
                *map(_number, _NUMBERS),
                io.String.Input(
                    "caption", default="", multiline=True, optional=True,
                    tooltip="The caption of the pictures, looked at here and handed on to the node that encodes it.",
                ),
                io.Combo.Input(
                    "language", options=[BY_CAPTION, *LANGUAGES], default=BY_CAPTION, optional=True,
                    tooltip="In which language words of appearance are looked for; auto: the one that the caption "
                    "seems to be in.",
                ),
                io.Boolean.Input(
                    "drop_appearance", default=False, optional=True,
                    tooltip="Leaves the words of appearance out of the caption that is handed on, and says which.",
                ),
            ],
            outputs=[
                RoleSocket.Output(display_name="role", tooltip="For role_settings of Train QR-LoRA."),
                io.String.Output(
                    display_name="caption", tooltip="The caption, for the node that encodes it for Train QR-LoRA."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, caption: str = "", language: str = BY_CAPTION, drop_appearance: bool = False, **settings: Any
    ) -> io.NodeOutput:
        """Pack the settings, which check themselves, and read the caption."""
        role, read = RoleSettings(**settings), read_caption(caption, language)
        show_text(cls, describe_caption(read, dropped=drop_appearance))
        return io.NodeOutput(role, read.without_appearance if drop_appearance else caption)


def _number(name: str) -> io.Input:
    """-1, which is as the strength says, to the largest number."""
    most, tooltip = LIMITS[name][1], f"{_NUMBERS[name]} -1: as the strength says."
    given: dict[str, Any] = {"max": most, "optional": True, "tooltip": tooltip}
    if isinstance(most, int):
        return io.Int.Input(name, default=int(BY_STRENGTH), min=int(BY_STRENGTH), **given)
    return io.Float.Input(name, default=BY_STRENGTH, min=BY_STRENGTH, step=1.0 if name == "tilt" else 0.05, **given)
