"""The PyTorch side: diffusers' networks with our weights, their outputs and gradients.

Arrays at the boundary are NumPy, images and latents `[B, H, W, C]` as ours.
"""

import functools

import numpy as np
import torch
from diffusers import DiTTransformer2DModel
from flax import linen as nn

from benchmarks.torch_networks import build_autoencoder, build_unet
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.dit import ClassDiT, DiT, DiTDecoder
from epsilon_vae.models.encoder import SDEncoder
from tests import golden_params
from tests.parity.weights import to_diffusers


def run_torch(module: nn.Module, params: dict, inputs: dict) -> dict[str, np.ndarray]:
    """What diffusers computes for `module`: 'output', and gradients of its projection.

    Gradients by inputs carry the inputs' names, those by parameters diffusers' names.
    """
    network = build(module, params, inputs)
    tensors = {
        name: torch.tensor(value, requires_grad=value.dtype.kind == "f")
        for name, value in inputs.items()
        if value is not None
    }
    output = forward(network, **tensors)
    output.backward(torch.tensor(golden_params.projection(output.shape)))
    results = {name: parameter.grad.numpy() for name, parameter in network.named_parameters()}
    results |= {name: x.grad.numpy() for name, x in tensors.items() if x.requires_grad}
    return results | {"output": output.detach().numpy()}


def predict(module: nn.Module, params: dict, inputs: dict) -> np.ndarray:
    """diffusers' output alone."""
    network = build(module, params, inputs)
    with torch.no_grad():
        tensors = {k: torch.tensor(v) for k, v in inputs.items() if v is not None}
        return forward(network, **tensors).numpy()


def build(module: nn.Module, params: dict, inputs: dict) -> torch.nn.Module:
    """diffusers' network for `module`, with the weights `params`, each of which it must know."""
    if isinstance(module, SDEncoder):
        network = build_autoencoder(module, module.blocks, module.n_z // 2).encoder
    elif isinstance(module, SDDecoder):
        network = build_autoencoder(module, module.blocks - 1, inputs["latents"].shape[-1]).decoder
    elif isinstance(module, DiT):
        network = build_dit(module, inputs["x"])
        for block in network.transformer_blocks:
            del block.norm1.emb
            block.norm1.emb = lambda conditioning, *_, **__: conditioning
    elif isinstance(module, (DiTDecoder, ClassDiT)):
        channels = inputs["latents"].shape[-1] if isinstance(module, DiTDecoder) else 0
        network = build_dit(module.dit, inputs["x"], channels)
        embedding = network.transformer_blocks[0].norm1.emb
        embedding.time_proj.downscale_freq_shift = 0  # diffusers' 1 is not the published network's
        if isinstance(module, DiTDecoder):
            del embedding.class_embedder
            embedding.class_embedder = lambda labels: 0  # there are none
        for block in network.transformer_blocks[1:]:
            del block.norm1.emb
            block.norm1.emb = functools.partial(embedding)  # a function: no weights of its own
    else:
        network = build_unet(module, 3 + inputs["latents"].shape[-1])
    state = {name: torch.tensor(value) for name, value in to_diffusers(module, params).items()}
    network.load_state_dict(state, strict=True)
    return network


def build_dit(module: DiT, x: np.ndarray, more_channels: int = 0) -> DiTTransformer2DModel:
    """Of the same layout, for x and other channels; all epsilons are the published network's 1e-6.

    Its labels are 10, and the one that stands for none.
    """
    return DiTTransformer2DModel(
        num_attention_heads=module.heads,
        attention_head_dim=module.width // module.heads,
        in_channels=x.shape[-1] + more_channels,
        out_channels=module.out_channels,
        num_layers=module.depth,
        sample_size=x.shape[1],
        patch_size=module.patch,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    ).eval()


def forward(network: torch.nn.Module, **tensors: torch.Tensor) -> torch.Tensor:
    """Images → latents, latents → images, or x (with latents or labels) and t → prediction."""
    if len(tensors) == 1:
        (tensor,) = tensors.values()
        return network(_channels_first(tensor)).permute(0, 2, 3, 1)
    x = _channels_first(tensors["x"])
    if "conditioning" in tensors:
        return network(x, tensors["conditioning"]).sample.permute(0, 2, 3, 1)
    if "labels" in tensors:
        return network(x, 1000 * tensors["t"], tensors["labels"]).sample.permute(0, 2, 3, 1)
    latents = _channels_first(tensors["latents"])
    latents = torch.nn.functional.interpolate(latents, size=x.shape[2:], mode="nearest")
    output = network(torch.cat([x, latents], dim=1), 1000 * tensors["t"]).sample
    return output.permute(0, 2, 3, 1)


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    """`[B, H, W, C]` → `[B, C, H, W]`."""
    return x.permute(0, 3, 1, 2)
