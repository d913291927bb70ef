"""Names in the UNets of Stable Diffusion: as diffusers has them, to those of the original, which ComfyUI keeps.

Both number their blocks by how a UNet is built, so that a small one has other numbers than a published one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..tiny_models.registry import ARCHITECTURES

_LEAVES = ("{attn1,attn2}.{to_q,to_k,to_v,to_out.0}", "ff.net.{0.proj,2}")
_RESNET = ("{conv1,time_emb_proj,conv2}", "{in_layers.2,emb_layers.1,out_layers.3}")
_SHORTCUT = ("conv_shortcut", "skip_connection")


@dataclass(frozen=True)
class UNet:
    """How a UNet is built.

    Args:
        resnets: of a level on the way down; one more on the way up.
        depths: of the transformers of each level, 0 for a level without.
        middle: depth of the transformer in the middle.
        wider: levels that are wider than the one before.
        labels: whether it takes a vector beside the text.
    """

    resnets: int
    depths: tuple[int, ...]
    middle: int
    wider: tuple[int, ...]
    labels: bool = False

    @classmethod
    def small(cls, name: str) -> UNet:
        """As the small model of this name is built; SD 1.5 where there is none of it."""
        unet = ARCHITECTURES.get(name, ARCHITECTURES["sd15"]).unet
        resnets, widths = unet["num_res_blocks"][0], unet["channel_mult"]
        wider = tuple(level for level in range(1, len(widths)) if widths[level] != widths[level - 1])
        depths = tuple(unet["transformer_depth"][::resnets])
        return cls(resnets, depths, unet["transformer_depth_middle"], wider, "num_classes" in unet)

    def blocks(self) -> tuple[str, ...]:
        """Diffusers' names of the blocks of the transformers, as patterns."""
        found = [name.rpartition(f".{_LEAVES[1]}") for name in self.transformers()]
        return tuple(block for block, leaf, _ in found if leaf)

    def transformers(self) -> dict[str, str]:
        """Diffusers' name to the original's, of all layers of the transformers."""
        pairs = self._transformer("mid_block.attentions.0", "middle_block.1", self.middle)
        for level, depth in enumerate(self.depths):
            for place in range(self.resnets):
                own = f"down_blocks.{level}.attentions.{place}"
                pairs |= self._transformer(own, f"input_blocks.{self._down(level, place)}.1", depth)
        for level, depth in enumerate(reversed(self.depths)):
            for place in range(self.resnets + 1):
                own = f"up_blocks.{level}.attentions.{place}"
                pairs |= self._transformer(own, f"output_blocks.{self._up(level, place)}.1", depth)
        return pairs

    def everything(self) -> dict[str, str]:
        """Diffusers' name to the original's, of all layers."""
        pairs = {
            "conv_in": "input_blocks.0.0",
            "conv_out": "out.2",
            "time_embedding.{linear_1,linear_2}": "time_embed.{0,2}",
            **self.transformers(),
            **self._resnet("mid_block.resnets.{0,1}", "middle_block.{0,2}"),
        }
        if self.labels:
            pairs["add_embedding.{linear_1,linear_2}"] = "label_emb.0.{0,2}"
        last = len(self.depths) - 1
        for level in range(last + 1):
            for place in range(self.resnets):
                wider = level in self.wider and not place
                block = f"input_blocks.{self._down(level, place)}.0"
                pairs |= self._resnet(f"down_blocks.{level}.resnets.{place}", block, wider)
            for place in range(self.resnets + 1):
                block = f"output_blocks.{self._up(level, place)}.0"
                pairs |= self._resnet(f"up_blocks.{level}.resnets.{place}", block, True)
        for level in range(last):
            down, up = self._down(level, self.resnets), self._up(level, self.resnets)
            pairs[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{down}.0.op"
            behind = 2 if self.depths[last - level] else 1
            pairs[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{up}.{behind}.conv"
        return pairs

    def _down(self, level: int, place: int) -> int:
        return (self.resnets + 1) * level + place + 1

    def _up(self, level: int, place: int) -> int:
        return (self.resnets + 1) * level + place

    @staticmethod
    def _transformer(own: str, original: str, depth: int) -> dict[str, str]:
        if not depth:
            return {}
        block = f"transformer_blocks.{{0..{depth - 1}}}"
        inner = {f"{own}.{block}.{leaf}": f"{original}.{block}.{leaf}" for leaf in _LEAVES}
        return inner | {f"{own}.{{proj_in,proj_out}}": f"{original}.{{proj_in,proj_out}}"}

    @staticmethod
    def _resnet(own: str, original: str, shortcut: bool = False) -> dict[str, str]:
        leaves = (_RESNET, _SHORTCUT) if shortcut else (_RESNET,)
        return {f"{own}.{leaf}": f"{original}.{host}" for leaf, host in leaves}
