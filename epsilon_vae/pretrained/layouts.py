"""Latent diffusion's networks in other projects' names and layouts, and back.

Our parameters are by path, `{'encoder/encoder/conv_in/kernel': …, 'decoder/…': …}`, theirs by the
names of a PyTorch state dict. One table of rules a layout says what a path is called there. What
becomes of an array is a view of it, so that the way back is an assignment to views. Pure NumPy.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Rules = tuple[tuple[str, str], ...]  # pattern → replacement, applied one after the other

# GroupNorm's and AdaGN's inner modules carry no name in diffusers.
_DIFFUSERS: Rules = (
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
_LEVELS_DOWN: Rules = ((r"^level(\d+)_down$", r"down\1_resample"), (r"^level", r"down"))
_LEVELS_UP: Rules = (
    (r"^level(\d+)_up$", r"up\1_resample"),
    (r"^level", r"up"),
    (r"^known/conv(\d+)$", r"condition_encoder.layers.\1"),  # AsymmetricAutoencoderKL's
)

# The blocks of DiTTransformer2DModel share one time embedding, which stands in the first.
_DIT: Rules = (
    (r"^dit/", r""),
    (r"^time/hidden$", r"transformer_blocks.0.norm1.emb.timestep_embedder.linear_1"),
    (r"^time/out$", r"transformer_blocks.0.norm1.emb.timestep_embedder.linear_2"),
    (r"^labels$", r"transformer_blocks.0.norm1.emb.class_embedder.embedding_table"),
    (r"^patch$", r"pos_embed.proj"),
    (r"^adaptive_out/modulation$", r"proj_out_1"),
    (r"^out$", r"proj_out_2"),
    (r"^block(\d+)/adaptive/modulation$", r"transformer_blocks.\1.norm1.linear"),
    (r"^block(\d+)/qkv$", r"transformer_blocks.\1.attn1.qkv"),
    (r"^block(\d+)/out$", r"transformer_blocks.\1.attn1.to_out.0"),
    (r"^block(\d+)/mlp_hidden$", r"transformer_blocks.\1.ff.net.0.proj"),
    (r"^block(\d+)/mlp_out$", r"transformer_blocks.\1.ff.net.2"),
)
_PUBLIC_DIT: Rules = (
    (r"^dit/", r""),
    (r"^time/hidden$", r"t_embedder.mlp.0"),
    (r"^time/out$", r"t_embedder.mlp.2"),
    (r"^labels$", r"y_embedder.embedding_table"),
    (r"^patch$", r"x_embedder.proj"),
    (r"^adaptive_out/modulation$", r"final_layer.adaLN_modulation.1"),
    (r"^out$", r"final_layer.linear"),
    (r"^block(\d+)/adaptive/modulation$", r"blocks.\1.adaLN_modulation.1"),
    (r"^block(\d+)/qkv$", r"blocks.\1.attn.qkv"),
    (r"^block(\d+)/out$", r"blocks.\1.attn.proj"),
    (r"^block(\d+)/mlp_hidden$", r"blocks.\1.mlp.fc1"),
    (r"^block(\d+)/mlp_out$", r"blocks.\1.mlp.fc2"),
)

# What latent-diffusion, taming-transformers and LlamaGen have in common.
_LDM_LAYERS: Rules = (
    (r"shortcut$", r"nin_shortcut"),
    (r"/out$", r"/proj_out"),
    (r"/norm$", r""),
    (r"/", r"."),
)
_LLAMAGEN: Rules = (
    (r"^level(\d+)_block(\d+)", r"conv_blocks.\1.res.\2"),
    (r"^level(\d+)_attention(\d+)", r"conv_blocks.\1.attn.\2"),
    (r"^level(\d+)_(down|up)$", r"conv_blocks.\1.\2sample.conv"),
    (r"^middle_block0", r"mid.0"),
    (r"^middle_attention", r"mid.1"),
    (r"^middle_block1", r"mid.2"),
    *_LDM_LAYERS,
)


def _ldm(way: str) -> Rules:
    return (
        (r"^level(\d+)_block(\d+)", rf"{way}.\1.block.\2"),
        (r"^level(\d+)_attention(\d+)", rf"{way}.\1.attn.\2"),
        (r"^level(\d+)_(down|up)$", rf"{way}.\1.\2sample.conv"),
        (r"^middle_block0", r"mid.block_1"),
        (r"^middle_attention", r"mid.attn_1"),
        (r"^middle_block1", r"mid.block_2"),
        *_LDM_LAYERS,
    )


# Where our paths of the two networks begin; and what stands between them.
_NETWORKS = {"encoder": "encoder/encoder/", "decoder": "decoder/"}
_BETWEEN = {
    "encoder/quant_conv/kernel": "quant_conv.weight",
    "encoder/quant_conv/bias": "quant_conv.bias",
    "encoder/codebook": "quantize.embedding.weight",
    "decoder/post_quant_conv/kernel": "post_quant_conv.weight",
    "decoder/post_quant_conv/bias": "post_quant_conv.bias",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a project calls and shapes the weights of latent diffusion's networks.

    Attributes:
      title: of the project.
      mark: what some name begins with, in this layout alone.
      rules: of each network: 'encoder', 'decoder', and diffusers' 'unet' and 'dit'.
      qkv: names of the three layers that are one of ours; None where they are one there too.
      reverses: levels on the way up are counted in the order of computing, the deepest first.
      has_conv_attention: attention's layers are 1×1 convolutions.
      old_names: rules that make today's names of older ones.
    """

    title: str
    mark: str
    rules: Mapping[str, Rules]
    qkv: tuple[str, str, str] | None = ("q", "k", "v")
    reverses: bool = True
    has_conv_attention: bool = True
    old_names: Rules = ()

    def state_dict(self, params: Arrays) -> dict[str, np.ndarray]:
        """The state dict of an autoencoder; views of `params`.

        Args:
          params: by path, of an encoder in a bottleneck, and of a decoder.
        """
        state = {}
        for network, prefix in _NETWORKS.items():
            part = {
                path.removeprefix(prefix): value
                for path, value in params.items()
                if path.startswith(prefix) and path not in _BETWEEN
            }
            named = self.network_state_dict(network, part)
            state |= {f"{network}.{name}": value for name, value in named.items()}
        for path, name in _BETWEEN.items():
            if path in params:
                _, state[name] = torch_leaf(path.rsplit("/", 1)[1], params[path])
        return state

    def network_state_dict(self, network: str, params: Arrays) -> dict[str, np.ndarray]:
        """The state dict of one network alone, of its parameters or gradients; views of them.

        The fused qkv layer, whose features are ordered (3, heads, head_dim), becomes three, ordered
        (heads, head_dim).
        """
        levels = [int(found[1]) for path in params if (found := re.match(_UPWARD[network], path))]
        state = {}
        for path, value in params.items():
            path, leaf = path.rsplit("/", 1)
            name = self._name(network, path, max(levels, default=0))
            leaf, value = torch_leaf(leaf, value)
            if self.has_conv_attention and leaf == "weight" and value.ndim == 2:
                value = value[..., None, None]
            if name.endswith(".qkv") and self.qkv:
                for part_name, part in zip(self.qkv, np.split(value, 3), strict=True):
                    state[f"{name.removesuffix('qkv')}{part_name}.{leaf}"] = part
            else:
                state[f"{name}.{leaf}"] = value
        return state

    def parameters(
        self, state: Arrays, shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, np.ndarray]:
        """An autoencoder's parameters, float32, from its state dict.

        Dense layers may be 1×1 convolutions there, and the other way round.

        Args:
          state: by name.
          shapes: of our parameters, by path.

        Raises:
          ValueError: weights are missing, unknown or of another shape; the message names some.
        """
        state = {_replaced(name, self.old_names): array for name, array in state.items()}
        params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
        views = self.state_dict(params)
        for name in state.keys() & views.keys():
            if _without_ones(state[name].shape) == _without_ones(views[name].shape):
                state[name] = state[name].reshape(views[name].shape)
        check_shapes(state, views)
        for name, view in views.items():
            view[...] = state[name]
        return params

    def _name(self, network: str, path: str, last: int) -> str:
        """Their name of the layer at `path`; `last` is the number of the decoder's last level."""
        if self.reverses and network != "encoder":
            path = re.sub(
                _UPWARD[network], lambda x: f"{x[0].removesuffix(x[1])}{last - int(x[1])}", path
            )
        return _replaced(path, self.rules[network])


# What a path on the way up begins with; some have none.
_UPWARD = {
    "encoder": r"(?!)",
    "decoder": r"^level(\d+)",
    "unet": r"^up(\d+)",
    "dit": r"(?!)",
}

DIFFUSERS = Layout(
    title="diffusers",
    mark="encoder.down_blocks.",
    rules={
        "encoder": _LEVELS_DOWN + _DIFFUSERS,
        "decoder": _LEVELS_UP + _DIFFUSERS,
        "unet": _DIFFUSERS,
        "dit": _DIT,
    },
    qkv=("to_q", "to_k", "to_v"),
    has_conv_attention=False,
    old_names=(
        (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ),
)
LATENT_DIFFUSION = Layout(
    title="latent-diffusion and taming-transformers",
    mark="encoder.down.",
    rules={"encoder": _ldm("down"), "decoder": _ldm("up")},
    reverses=False,
)
LLAMAGEN = Layout(
    title="LlamaGen",
    mark="encoder.conv_blocks.",
    rules={"encoder": _LLAMAGEN, "decoder": _LLAMAGEN},
)
LAYOUTS = (DIFFUSERS, LATENT_DIFFUSION, LLAMAGEN)  # of autoencoders
DIT = Layout(
    title="DiT",
    mark="x_embedder.",
    rules={"dit": _PUBLIC_DIT},
    qkv=None,
    has_conv_attention=False,
)


def check_shapes(found: Arrays, expected: Arrays) -> None:
    """Raises `ValueError` that counts, and names some of, the weights that do not fit."""
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [
        f"{name} {found[name].shape}, expected {expected[name].shape}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {words}: {_some(names)}"
        for words, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", other),
        )
        if names
    ]
    if problems:
        raise ValueError("; ".join(problems))


_TORCH_LEAVES = dict.fromkeys(("kernel", "scale", "codebook", "embedding"), "weight") | {
    "bias": "bias"
}


def torch_leaf(leaf: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """PyTorch's name and layout: kernels HWIO → OIHW or (in, out) → (out, in); others as they are.

    Scales, codebooks and embeddings are weights there.
    """
    if leaf == "kernel":
        value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
    return _TORCH_LEAVES[leaf], value


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`[512, 512, 1, 1]` as `[512, 512]`."""
    return shape[:2] if set(shape[2:]) <= {1} else shape


def _replaced(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
