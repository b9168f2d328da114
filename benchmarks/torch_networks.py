"""diffusers' networks that compute what ours do, as fast as PyTorch runs them.

Convolutions are channels_last. `tests/parity` shows that outputs and gradients are equal.
"""

import warnings
from collections.abc import Callable

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DModel

from epsilon_vae.errors import reason
from epsilon_vae.models.decoder import SDDecoder
from epsilon_vae.models.encoder import SDEncoder
from epsilon_vae.models.unet import UNet

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WORDS = f"PyTorch {torch.__version__}, channels_last"


def build_unet(module: UNet, in_channels: int) -> UNet2DModel:
    """The UNet2DModel of the same layout.

    With scale and shift it leaves out the norm of its middle attention unless
    `attn_norm_num_groups` is set; guided-diffusion has it.
    """
    kind = "Resnet{}sampleBlock2D" if module.resample_in_blocks else "{}Block2D"
    kinds = [
        "Attn{}Block2D" if 2**level in module.attention_factors else kind
        for level in range(len(module.multipliers))
    ]
    return UNet2DModel(
        in_channels=in_channels,
        out_channels=module.out_channels,
        block_out_channels=[module.channels * multiplier for multiplier in module.multipliers],
        layers_per_block=module.blocks,
        down_block_types=[kind.format("Down") for kind in kinds],
        up_block_types=[kind.format("Up") for kind in reversed(kinds)],
        downsample_type="resnet" if module.resample_in_blocks else "conv",
        upsample_type="resnet" if module.resample_in_blocks else "conv",
        downsample_padding=1,
        resnet_time_scale_shift="scale_shift" if module.adaptive_norm else "default",
        attention_head_dim=module.head_dim,
        norm_num_groups=module.groups,
        attn_norm_num_groups=module.groups,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def build_autoencoder(
    module: SDEncoder | SDDecoder, blocks: int, latent_channels: int
) -> AutoencoderKL:
    """Of the same layout; its encoder gives means and log-variances, its decoder has a block more.

    With attention at the last level it is VQModel's layout too, of the same blocks.
    """
    plain = len(module.multipliers) - 1
    attention = "Attn" if module.last_attention else ""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * plain + [f"{attention}DownEncoderBlock2D"],
        up_block_types=[f"{attention}UpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain,
        block_out_channels=[module.channels * multiplier for multiplier in module.multipliers],
        layers_per_block=blocks,
        latent_channels=latent_channels,
        norm_num_groups=module.groups,
    )


def training_call(
    module: UNet, in_channels: int, *, batch_size: int, resolution: int, bfloat16: bool
) -> tuple[str, Callable[[], None]]:
    """How it runs, in words, and a call of the UNet forward and backward, by its weights.

    Args:
      module: ours.
      in_channels: of the images and the latents.
      batch_size, resolution: of the images.
      bfloat16: computes in bfloat16 under autocast, as ours with float32 weights.
    """
    _prepare()
    network = build_unet(module, in_channels).to(DEVICE, memory_format=torch.channels_last)
    x = torch.randn(batch_size, in_channels, resolution, resolution, device=DEVICE)
    x = x.to(memory_format=torch.channels_last)
    t = torch.full((batch_size,), 500.0, device=DEVICE)

    def call(network: Callable) -> None:
        for parameter in module_parameters:
            parameter.grad = None
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bfloat16):
            output = network(x, t).sample
        output.float().square().mean().backward()
        _sync()

    module_parameters = list(network.parameters())
    return _compiled(network, call)


def decoding_call(
    module: SDDecoder, latent_channels: int, *, batch_size: int, resolution: int, bfloat16: bool
) -> tuple[str, Callable[[], None]]:
    """How it runs, in words, and a call that decodes latents.

    Args:
      module: ours.
      latent_channels: of the latents.
      batch_size, resolution: of the images.
      bfloat16: weights and all are bfloat16.
    """
    _prepare()
    network = build_autoencoder(module, module.blocks - 1, latent_channels).eval()
    network.encoder = None
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    network = network.to(DEVICE, dtype, memory_format=torch.channels_last)
    side = resolution // 2 ** (len(module.multipliers) - 1)
    latents = torch.randn(batch_size, latent_channels, side, side, device=DEVICE, dtype=dtype)
    latents = latents.to(memory_format=torch.channels_last)

    def call(decode: Callable) -> None:
        with torch.inference_mode():
            decode(latents)
        _sync()

    return _compiled(lambda latents: network.decode(latents).sample, call)


def peak_gib() -> float:
    """The most memory that PyTorch held of the GPU, which it gives back now; 0 without one."""
    if DEVICE == "cpu":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _prepare() -> None:
    """Has PyTorch take TF32, as JAX does, and try the algorithms of convolutions; quietly."""
    warnings.filterwarnings("ignore", module="torch._dynamo")
    diffusers.logging.set_verbosity_error()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def _compiled(function: Callable, call: Callable) -> tuple[str, Callable[[], None]]:
    """'compiled' and `call` of the compiled function, or 'eager' and of the function as it is."""
    torch._dynamo.reset()  # else the next batch size would be compiled for sizes of all kinds
    fast = torch.compile(function, dynamic=False)
    try:
        call(fast)
    except torch._dynamo.exc.TorchDynamoException as error:
        print(f"torch.compile does not work here, so PyTorch is timed eager: {reason(error)}")
        call(function)
        return "eager", lambda: call(function)
    return "compiled", lambda: call(fast)


def _sync() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
