"""Wan: video, and pictures of one frame."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Generator, nn

from ..architecture import Architecture, Released
from ..conditioning import CONTEXT_LENGTH, CONTEXT_WIDTH, Conditioning, constant, normal, reference_latents
from ..narrowing import layer_kinds

_CLIP_WIDTH = 1280
_SOUND_WIDTH = 16
_FRAMES, _SIDE = 2, 8
_LATENT = (16, _FRAMES, _SIDE, _SIDE)
_LATENT_22 = (48, _FRAMES, _SIDE, _SIDE)

_WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "out_dim": 16,
    "num_heads": 4,
    "ffn_dim": 512,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "text_dim": CONTEXT_WIDTH,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}
_1_3B = {"dim": 1536, "num_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096}
_5B = {"dim": 3072, "num_heads": 24, "ffn_dim": 14336, "num_layers": 30, "text_dim": 4096}
_14B = {"dim": 5120, "num_heads": 40, "ffn_dim": 13824, "num_layers": 40, "text_dim": 4096}

_I2V = {"model_type": "i2v", "in_dim": 36}  # noisy latent, mask and given frames
_FUN_CONTROL = {"model_type": "i2v", "in_dim": 48}
_FUN_CONTROL_22 = {"in_dim": 52, "in_dim_ref_conv": 16}
_VACE = {"model_type": "vace", "vace_in_dim": 96}
_CAMERA = {"model_type": "camera", "in_dim": 32}
_CAMERA_22 = {"model_type": "camera_2.2", "in_dim": 36}
_ANIMATE = {"model_type": "animate", "in_dim": 36}
_ANIMATE_2 = {"model_type": "animate2", "in_dim": 36}
_SCAIL = {"model_type": "scail", "in_dim": 20}
_SCAIL_2 = {"model_type": "scail2", "in_dim": 20}
_DANCER = {"model_type": "wandancer", "in_dim": 36}
_TI2V = {"in_dim": 48, "out_dim": 48}


def _seen(name: str = "clip_vision_output") -> Conditioning:
    """What CLIP Vision made of a picture: of its output, the model takes the last layer but one."""
    return lambda generator: {
        name: SimpleNamespace(penultimate_hidden_states=torch.randn(1, 257, _CLIP_WIDTH, generator=generator))
    }


def _first_frame(generator: Generator) -> dict[str, Any]:
    """The given frame, and a mask that is zero where frames are given."""
    mask = torch.ones(1, 1, _FRAMES, _SIDE, _SIDE)
    mask[:, :, :1] = 0
    return {"concat_latent_image": torch.randn(1, *_LATENT, generator=generator), "concat_mask": mask}


def _control_video(generator: Generator) -> dict[str, Any]:
    """VACE: inactive and reactive halves of a video, and their mask, each in a list as several may be given."""
    return {
        "vace_frames": [torch.randn(1, 32, _FRAMES, _SIDE, _SIDE, generator=generator)],
        "vace_mask": [torch.ones(1, 64, _FRAMES, _SIDE, _SIDE)],
        "vace_strength": [1.0],
    }


def _narrow_sound(network: Any) -> None:
    """HuMo's projection of the sound, whose host takes Whisper's 1280 channels of 5 layers and 8 moments at once."""
    network.audio_proj = type(network.audio_proj)(
        seq_len=8, blocks=5, channels=_SOUND_WIDTH, intermediate_dim=64, output_dim=1536, context_tokens=16,
        dtype=network.dtype, operations=layer_kinds(network),
    )  # fmt: skip


def _narrow_face(network: Any) -> None:
    """Animate's encoders of a face, which its host builds 512 and 1024 wide."""
    layers, encoder = network.motion_encoder.enc.net_app.convs, network.face_encoder
    first, block, last = (type(layers[index]) for index in (0, 1, -1))
    like = {"dtype": network.dtype, "operations": layer_kinds(network)}
    network.motion_encoder.enc.net_app.convs = nn.ModuleList(
        [first(3, 8, 1, **like), *(block(8, 8, **like) for _ in range(7)), last(8, 512, 4, bias=False, **like)]
    )
    width, heads = 32, encoder.num_heads
    convolution, linear = type(encoder.conv2), type(encoder.out_proj)
    encoder.conv1_local = convolution(512, width * heads, 3, **like)
    encoder.conv2, encoder.conv3 = (convolution(width, width, 3, stride=2, **like) for _ in range(2))
    encoder.out_proj = linear(width, network.dim, dtype=network.dtype)
    for name in ("norm1", "norm2", "norm3"):
        setattr(encoder, name, type(encoder.norm1)(width, elementwise_affine=False, eps=1e-6))


_FILES_21 = "sizes of the 16 bit files of huggingface.co/Comfy-Org/Wan_2.1_ComfyUI_repackaged"
_FILES_22 = "sizes of the 16 bit files of huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
_KIJAI = "size of the 8 bit file of huggingface.co/Kijai/WanVideo_comfy, some layers of it in 16 bits"
_HUMO = "sizes of the 16 bit files of huggingface.co/Comfy-Org/HuMo_ComfyUI"
_CONFIG = "; blocks: the configurations in github.com/Wan-Video/Wan2.1 and Wan2.2"


def _released(title: str, unet: dict[str, Any], parameters: float, source: str, **blocks: int) -> Released:
    return Released(title, unet, parameters, {"blocks": unet["num_layers"], **blocks}, source + _CONFIG)


ARCHITECTURES = {
    "wan": Architecture(
        "Wan",
        "WAN21_T2V",
        _WAN,
        _LATENT,
        conditioning=(),
        released=(
            _released("Wan 2.1 1.3B", _WAN | _1_3B, 1.419, _FILES_21),
            _released("Wan 2.1 14B", _WAN | _14B, 14.3, _FILES_21),
            _released("Wan 2.2 A14B, high noise", _WAN | _14B, 14.3, _FILES_22),
            _released("Wan 2.2 A14B, low noise", _WAN | _14B, 14.3, _FILES_22),
        ),
    ),
    "wan22_i2v": Architecture(
        "Wan 2.2, image to video",
        "WAN21_T2V",
        _WAN | {"in_dim": 36},
        _LATENT,
        conditioning=(_first_frame,),
        variant_of="wan",
        released=(
            _released("Wan 2.2 I2V A14B, high noise", _WAN | _14B | {"in_dim": 36}, 14.3, _FILES_22),
            _released("Wan 2.2 I2V A14B, low noise", _WAN | _14B | {"in_dim": 36}, 14.3, _FILES_22),
            _released("Wan 2.2 Fun Control A14B", _WAN | _14B | _FUN_CONTROL_22, 14.3, _FILES_22),
        ),
    ),
    "wan22_5b": Architecture(
        "Wan 2.2 5B",
        "WAN22_T2V",
        _WAN | _TI2V,
        _LATENT_22,
        conditioning=(),
        variant_of="wan",
        released=(_released("Wan 2.2 TI2V 5B", _WAN | _5B | _TI2V, 5.0, _FILES_22),),
    ),
    "wan_i2v": Architecture(
        "Wan 2.1, image to video",
        "WAN21_I2V",
        _WAN | _I2V,
        _LATENT,
        conditioning=(_first_frame, _seen()),
        released=(
            _released("Wan 2.1 I2V 14B", _WAN | _14B | _I2V, 16.4, _FILES_21),
            _released("Wan 2.1 FLF2V 14B", _WAN | _14B | _I2V | {"flf_pos_embed_token_number": 514}, 16.4, _FILES_21),
            _released("Wan 2.1 Fun InP 1.3B", _WAN | _1_3B | _I2V, 1.564, _FILES_21),
        ),
    ),
    "wan_fun_control": Architecture(
        "Wan Fun Control",
        "WAN21_FunControl2V",
        _WAN | _FUN_CONTROL,
        _LATENT,
        conditioning=(normal("concat_latent_image", 1, 32, _FRAMES, _SIDE, _SIDE), _seen()),
        variant_of="wan_i2v",
        released=(
            _released("Wan 2.1 Fun Control 1.3B", _WAN | _1_3B | _FUN_CONTROL, 1.565, _FILES_21),
            _released("Wan 2.1 Fun Control 14B", _WAN | _14B | _FUN_CONTROL, 16.4, _KIJAI),
        ),
    ),
    "wan_vace": Architecture(
        "Wan VACE",
        "WAN21_Vace",
        _WAN | _VACE | {"num_layers": 4, "vace_layers": 2},
        _LATENT,
        conditioning=(_control_video,),
        released=(
            _released(
                "Wan 2.1 VACE 1.3B",
                _WAN | _1_3B | _VACE | {"vace_layers": 15},
                2.15,
                "the network with the published numbers of blocks, huggingface.co/Wan-AI/Wan2.1-VACE-1.3B/config.json",
                vace_blocks=15,
            ),
            _released(
                "Wan 2.1 VACE 14B",
                _WAN | _14B | _VACE | {"vace_layers": 8},
                17.35,
                "Wan 2.2 VACE Fun A14B, the same network: " + _FILES_22,
                vace_blocks=8,
            ),
        ),
    ),
    "wan_camera": Architecture(
        "Wan Camera",
        "WAN21_Camera",
        _WAN | _CAMERA,
        _LATENT,
        conditioning=(
            normal("concat_latent_image", 1, *_LATENT),
            normal("camera_conditions", 1, 24, _FRAMES, 8 * _SIDE, 8 * _SIDE),
            _seen(),
        ),
        released=(
            _released("Wan 2.1 Fun Camera 1.3B", _WAN | _1_3B | _CAMERA, 1.615, _FILES_21),
            _released("Wan 2.1 Fun Camera 14B", _WAN | _14B | _CAMERA, 16.9, _FILES_21),
        ),
    ),
    "wan22_camera": Architecture(
        "Wan 2.2 Camera",
        "WAN22_Camera",
        _WAN | _CAMERA_22,
        _LATENT,
        conditioning=(_first_frame, normal("camera_conditions", 1, 24, _FRAMES, 8 * _SIDE, 8 * _SIDE)),
        variant_of="wan_camera",
        released=(_released("Wan 2.2 Fun Camera A14B", _WAN | _14B | _CAMERA_22, 14.8, _FILES_22),),
    ),
    "wan_humo": Architecture(
        "Wan HuMo",
        "WAN21_HuMo",
        _WAN | {"model_type": "humo", "in_dim": 36},
        _LATENT,
        conditioning=(normal("audio_embed", 1, _FRAMES, 8, 5, _SOUND_WIDTH),),
        reference=(reference_latents(16, 1, _SIDE, _SIDE),),
        narrow=_narrow_sound,
        released=(
            _released("HuMo 1.7B", _WAN | _1_3B | {"model_type": "humo"}, 1.74, _HUMO),
            _released("HuMo 17B", _WAN | _14B | {"model_type": "humo", "in_dim": 36}, 17.05, _HUMO),
        ),
    ),
    "wan22_s2v": Architecture(
        "Wan 2.2 S2V",
        "WAN22_S2V",
        _WAN | {"model_type": "s2v", "audio_dim": 64, "audio_inject_layers": [0, 1]},
        _LATENT,
        conditioning=(
            normal("audio_embed", 1, 25, 64, 4 * _FRAMES),
            normal("control_video", 1, *_LATENT),
            normal("reference_motion", 1, 16, 19, _SIDE, _SIDE),
        ),
        reference=(reference_latents(16, 1, _SIDE, _SIDE),),
        released=(_released("Wan 2.2 S2V 14B", _WAN | _14B | {"model_type": "s2v"}, 16.3, _FILES_22),),
    ),
    "wan22_animate": Architecture(
        "Wan 2.2 Animate",
        "WAN22_Animate",
        _WAN | _ANIMATE | {"num_layers": 5},  # a face at every fifth block
        _LATENT,
        conditioning=(
            _first_frame,
            _seen(),
            normal("pose_video_latent", 1, 16, _FRAMES - 1, _SIDE, _SIDE),
            normal("face_video_pixels", 1, 3, 4 * (_FRAMES - 1), 512, 512),
        ),
        narrow=_narrow_face,
        released=(
            _released(
                "Wan 2.2 Animate 14B",
                _WAN | _14B | _ANIMATE,
                17.27,
                "size of the float32 files of huggingface.co/Wan-AI/Wan2.2-Animate-14B-Diffusers",
                **{"face_adapter.fuser_blocks": 8},
            ),
        ),
    ),
    "wan_animate2": Architecture(
        "Wan Animate 2",
        "WAN_Animate2",
        _WAN | _ANIMATE_2,
        _LATENT,
        conditioning=(
            _first_frame,
            _seen(),
            normal("pose_video_latent", 1, 16, _FRAMES - 1, _SIDE, _SIDE),
            _seen("clip_vision_output_pose"),
            normal("cross_attn_pose", 1, CONTEXT_LENGTH, CONTEXT_WIDTH),
        ),
        released=(
            _released(
                "Wan Animate 2 14B",
                _WAN | _14B | _ANIMATE_2,
                16.4,
                "weights of the form of Wan 2.1 I2V 14B, as ComfyUI's model says, so the size of that",
            ),
        ),
    ),
    "wan_scail": Architecture(
        "Wan SCAIL",
        "WAN21_SCAIL",
        _WAN | _SCAIL,
        _LATENT,
        conditioning=(_seen(), normal("pose_video_latent", 1, 16, _FRAMES, _SIDE // 2, _SIDE // 2)),
        reference=(reference_latents(16, 1, _SIDE, _SIDE),),
        released=(
            _released(
                "SCAIL preview 14B",
                _WAN | _14B | _SCAIL,
                16.4,
                "size of the bfloat16 file of huggingface.co/DeepBeepMeep/Wan2.1",
            ),
        ),
    ),
    "wan_scail2": Architecture(
        "Wan SCAIL 2",
        "WAN21_SCAIL2",
        _WAN | _SCAIL_2,
        _LATENT,
        conditioning=(
            _seen(),
            normal("pose_video_latent", 1, 16, _FRAMES, _SIDE // 2, _SIDE // 2),
            normal("driving_mask_28ch", 1, _FRAMES, 28, _SIDE // 2, _SIDE // 2),
        ),
        reference=(
            reference_latents(16, 1, _SIDE, _SIDE),
            normal("ref_mask_28ch", 1, _FRAMES + 1, 28, _SIDE, _SIDE),
            constant(ref_mask_flag=True),
        ),
        variant_of="wan_scail",
        released=(
            _released(
                "SCAIL 2 14B",
                _WAN | _14B | _SCAIL_2,
                16.4,
                "size of the 16 bit file of huggingface.co/Comfy-Org/SCAIL-2",
            ),
        ),
    ),
    "wan_dancer": Architecture(
        "Wan Dancer",
        "WAN22_WanDancer",
        _WAN | _DANCER | {"audio_inject_layers": [0, 1]},
        _LATENT,
        conditioning=(
            _first_frame,
            _seen(),
            _seen("clip_vision_output_ref"),
            normal("audio_embed", 1, 4 * _FRAMES, 35),
            constant(fps=30.0, audio_inject_scale=1.0),
        ),
        released=(
            _released(
                "Wan 2.2 Dancer 14B",
                _WAN | _14B | _DANCER,
                17.24,
                "the network with the numbers in ComfyUI's model; huggingface.co/Comfy-Org/Wan-Dancer has files of "
                "mixed 8 and 16 bits alone",
                music_encoder=2,
            ),
        ),
    ),
    "wan_causal": Architecture(
        "Wan Causal Forcing",
        "WAN21_CausalAR_T2V",
        _WAN,
        _LATENT,
        conditioning=(),
        released=(
            _released(
                "Causal Forcing 1.3B",
                _WAN | _1_3B,
                1.419,
                "github.com/thu-ml/Causal-Forcing: trained from Wan 2.1 1.3B, so the size of that",
            ),
        ),
    ),
}
