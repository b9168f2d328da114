"""Our LiteVAEEncoder equals its paper's (Appendix G), written down in PyTorch calls."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from epsilon_vae.models.litevae import LiteVAEEncoder
from tests import golden_params
from tests.parity.requirements import require

require()
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

MODULE = LiteVAEEncoder(n_z=4, extractor=(16, 32), aggregator=(32,))


class Reference:
    """Its functions, over tensors named and laid out as our parameters are."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights = weights

    def conv(self, name, x):
        kernel = self.weights[f"{name}/kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, self.weights[f"{name}/bias"], padding=kernel.shape[-1] // 2)

    def norm(self, name, x, groups):
        scale, bias = (self.weights[f"{name}/norm/{leaf}"] for leaf in ("scale", "bias"))
        return F.silu(F.group_norm(x, groups, scale, bias, eps=1e-5))

    def block(self, name, x, groups):
        h = self.conv(f"{name}/conv1", self.norm(f"{name}/norm1", x, groups))
        h = self.conv(f"{name}/conv2", self.norm(f"{name}/norm2", h, groups))
        has_shortcut = f"{name}/shortcut/kernel" in self.weights
        return h + (self.conv(f"{name}/shortcut", x) if has_shortcut else x)

    def unet(self, name, x, levels, groups):
        names = [f"{level}_block{i}" for level in range(levels) for i in range(2)]
        x = self.conv(f"{name}/conv_in", x)
        skips = []
        for part in names:
            x = self.block(f"{name}/down{part}", x, groups)
            skips.append(x)
        for i in range(2):
            x = self.block(f"{name}/middle_block{i}", x, groups)
        for level in reversed(range(levels)):
            for i in range(2):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self.block(f"{name}/up{level}_block{i}", x, groups)
        return self.conv(f"{name}/conv_out", x)

    def encode(self, images):
        first, second, third = (
            self.unet(f"extractor{i}", wavelets(images, i + 1), 2, 8) for i in range(3)
        )
        features = [F.avg_pool2d(first, 4), F.avg_pool2d(second, 2), third]
        return self.unet("aggregator", torch.cat(features, dim=1), 1, 16)


def wavelets(x: torch.Tensor, level: int) -> torch.Tensor:
    """The sub-bands of the level alone, over 2^level, by strided convolutions."""
    low, high = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    pairs = [(low, low), (high, low), (low, high), (high, high)]
    kernels = [torch.outer(rows, columns).expand(3, 1, 2, 2) for rows, columns in pairs]
    for _ in range(level - 1):
        x = F.conv2d(x, kernels[0], stride=2, groups=3)
    bands = [F.conv2d(x, kernel, stride=2, groups=3) for kernel in kernels]
    return torch.cat(bands, dim=1) / 2**level


@jax.jit
def run_flax(params: dict, images: np.ndarray) -> tuple[jax.Array, tuple[dict, jax.Array]]:
    output, pullback = jax.vjp(lambda p, x: MODULE.apply({"params": p}, x), params, images)
    return output, pullback(jnp.asarray(golden_params.projection(output.shape)))


def test_output_and_gradients_equal_the_papers():
    """By the images and every parameter."""
    inputs = {"images": np.random.RandomState(1).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)}
    for gain in golden_params.GAINS:
        params = golden_params.random_params(MODULE, inputs, gain)
        flat = traverse_util.flatten_dict(params, sep="/")
        leaves = {k: torch.tensor(v, requires_grad=True) for k, v in (flat | inputs).items()}
        output = Reference(leaves).encode(leaves["images"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        output.backward(torch.tensor(golden_params.projection(output.shape)))
        expected = {k: leaf.grad.numpy() for k, leaf in leaves.items()}
        expected["output"] = output.detach().numpy()
        with jax.default_matmul_precision("highest"):
            output, (by_params, by_images) = run_flax(params, inputs["images"])
        actual = traverse_util.flatten_dict(by_params, sep="/")
        golden_params.assert_close(actual | {"images": by_images, "output": output}, expected)
