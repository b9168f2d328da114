"""Parameters (or gradients) of our Flax trees in the names and layouts of PyTorch packages.

Pure NumPy: the golden tests, which run without PyTorch, use it too.
"""

import re

import numpy as np
from flax import linen as nn
from flax import traverse_util

from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.dit import DiT, DiTDecoder
from epsilon_vae.models.encoder import SDEncoder

# Path of a Flax module, its levels already counted as diffusers does → diffusers' name. Rules apply
# one after the other; GroupNorm's and AdaGN's inner modules carry no name in diffusers.
UNET_RULES = (
    (r"^(down|up)(\d+)_block(\d+)", r"\1_blocks.\2.resnets.\3"),
    (r"^(down|up)(\d+)_attention(\d+)", r"\1_blocks.\2.attentions.\3"),
    (r"^(down|up)(\d+)_resample$", r"\1_blocks.\2.\1samplers.0.conv"),
    (r"^(down|up)(\d+)_resample", r"\1_blocks.\2.\1samplers.0"),
    (r"^middle_block(\d)", r"mid_block.resnets.\1"),
    (r"^middle_attention", r"mid_block.attentions.0"),
    (r"^time/hidden$", r"time_embedding.linear_1"),
    (r"^time/out$", r"time_embedding.linear_2"),
    (r"^norm_out", r"conv_norm_out"),
    (r"norm2/modulation$|/time$", r"/time_emb_proj"),
    (r"shortcut$", r"conv_shortcut"),
    (r"(attentions\.\d+)/norm", r"\1/group_norm"),
    (r"(attentions\.\d+)/out$", r"\1/to_out/0"),
    (r"(/norm)+$", r""),
    (r"/+", r"."),
)
ENCODER_RULES = (
    (r"^level(\d+)_down$", r"down\1_resample"),
    (r"^level", r"down"),
    *UNET_RULES,
)
DECODER_RULES = (
    (r"^level(\d+)_up$", r"up\1_resample"),
    (r"^level", r"up"),
    *UNET_RULES,
)
# The blocks of DiTTransformer2DModel share one time embedding, the first's (`reference.build_dit`).
DIT_RULES = (
    (r"^dit/", r""),
    (r"^time/hidden$", r"transformer_blocks.0.norm1.emb.timestep_embedder.linear_1"),
    (r"^time/out$", r"transformer_blocks.0.norm1.emb.timestep_embedder.linear_2"),
    (r"^patch$", r"pos_embed.proj"),
    (r"^adaptive_out/modulation$", r"proj_out_1"),
    (r"^out$", r"proj_out_2"),
    (r"^block(\d+)/adaptive/modulation$", r"transformer_blocks.\1.norm1.linear"),
    (r"^block(\d+)/qkv$", r"transformer_blocks.\1.attn1.qkv"),
    (r"^block(\d+)/out$", r"transformer_blocks.\1.attn1.to_out.0"),
    (r"^block(\d+)/mlp_hidden$", r"transformer_blocks.\1.ff.net.0.proj"),
    (r"^block(\d+)/mlp_out$", r"transformer_blocks.\1.ff.net.2"),
)
RULES = {
    SDEncoder: ENCODER_RULES,
    SDDecoder: DECODER_RULES,
    DiT: DIT_RULES,
    DiTDecoder: DIT_RULES,
}
LPIPS_FEATURES = {
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "alexnet": (0, 3, 6, 8, 10),
}


def to_diffusers(module: nn.Module, params: dict) -> dict[str, np.ndarray]:
    """The state dict of diffusers' network for `module`'s parameters.

    That is `UNet2DModel`, `AutoencoderKL`'s encoder or decoder, or `DiTTransformer2DModel`.
    Gradients map like parameters. The fused qkv layer, whose features are ordered (3, heads,
    head_dim), becomes diffusers' to_q, to_k and to_v, ordered (heads, head_dim).
    """
    state = {}
    for path, value in traverse_util.flatten_dict(params, sep="/").items():
        name, leaf = path.rsplit("/", 1)
        name, value = _diffusers_name(module, name), np.asarray(value)
        if (name, leaf) == ("pos_embed.proj", "kernel"):  # a convolution there
            patch = (module.dit if isinstance(module, DiTDecoder) else module).patch
            value = value.reshape(patch, patch, -1, value.shape[-1])
        leaf, value = _torch_leaf(leaf, value)
        if name.endswith(".qkv"):
            for letter, part in zip("qkv", np.split(value, 3), strict=True):
                state[f"{name.removesuffix('qkv')}to_{letter}.{leaf}"] = part
        else:
            state[f"{name}.{leaf}"] = value
    return state


def to_lpips(net: str, params: dict) -> dict[str, np.ndarray]:
    """The state dict of `lpips.LPIPS` for our LPIPS parameters, without its constants.

    lpips names a convolution by its slice (one for each of the five taps) and by its index in
    torchvision's `features`; each linear layer has two names there.
    """
    stages = np.repeat(np.arange(5), (2, 2, 3, 3, 3)) if net == "vgg16" else range(5)
    state = {}
    for i, (stage, index) in enumerate(zip(stages, LPIPS_FEATURES[net], strict=True)):
        for leaf, value in params[f"conv{i}"].items():
            leaf, value = _torch_leaf(leaf, value)
            state[f"net.slice{stage + 1}.{index}.{leaf}"] = value
    for i in range(5):
        kernel = params[f"linear{i}"]["kernel"].reshape(1, -1, 1, 1)
        state[f"lin{i}.model.1.weight"] = state[f"lins.{i}.model.1.weight"] = kernel
    return state


def _diffusers_name(module: nn.Module, path: str) -> str:
    """diffusers' name of the module at `path`; it counts the levels of the way up from below."""
    rules = RULES.get(type(module), UNET_RULES)
    name = path
    if rules is not DIT_RULES:
        upward = "level" if isinstance(module, SDDecoder) else "up"
        last = len(module.multipliers) - 1
        name = re.sub(rf"^{upward}(\d+)", lambda match: f"{upward}{last - int(match[1])}", path)
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _torch_leaf(leaf: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """PyTorch's name and layout: kernels HWIO → OIHW or (in, out) → (out, in); scales → weights."""
    if leaf == "kernel":
        value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
    return {"kernel": "weight", "scale": "weight", "bias": "bias"}[leaf], value
