"""What the golden tests and the parity tests of frozen networks share: weights and images.

As in `golden_params`, nothing here needs PyTorch, and a golden file holds the values of PyTorch's
networks alone. AlexNet and VGG16 have LPIPS's weights; the others random ones, under the names and
in the shapes that the golden file keeps.
"""

import jax
import numpy as np

from epsilon_vae.evaluation.features import FEATURES
from epsilon_vae.metrics.inception import unbiased_logits
from epsilon_vae.pretrained import efficientnet_lite, inception, registry
from tests import golden_params

FROM_STATE_DICT = {
    "inception": inception.from_state_dict,
    "efficientnet_lite0": efficientnet_lite.from_state_dict,
}
# Enlarged along one side and made smaller along the other, by factors that are not whole.
HEIGHT, WIDTH = 72, 330


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict that keeps activations near one: each ReLU halves what its kernel doubles."""
    random = np.random.RandomState(0)
    state = {}
    for name in sorted(shapes):
        normal = random.standard_normal(shapes[name]).astype(np.float32)
        if len(shapes[name]) > 1:
            state[name] = normal * np.float32(np.sqrt(2 / np.prod(shapes[name][1:])))
        elif name.endswith("running_var"):
            state[name] = np.exp(np.float32(0.3) * normal)
        else:
            state[name] = np.float32(name.endswith(".weight")) + np.float32(0.1) * normal
    return state


def images(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 `[2, height, width, 3]`: coarse colours under fine noise, another pattern each."""
    random = np.random.RandomState(4)
    coarse = random.uniform(0, 255, (2, 8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    noise = random.uniform(-60, 60, (2, height, width, 3))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def load_golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """What PyTorch gave for `images()`, and the shapes of the state dict (of some: none)."""
    with np.load(golden_params.GOLDEN / f"features_{name}.npz") as golden:
        shapes = {
            str(key): tuple(map(int, shape.split()))
            for key, shape in zip(golden["names"], golden["shapes"], strict=True)
        }
        outputs = {key: golden[key] for key in golden.files if key not in ("names", "shapes")}
    return outputs, shapes


def run_ours(name: str, params: dict, batch: np.ndarray) -> dict[str, np.ndarray]:
    """'features' of `batch`, and for Inception 'logits'."""
    outputs = {"features": jax.jit(FEATURES[name])(params, batch)}
    if name == "inception":
        outputs["logits"] = unbiased_logits(params, outputs["features"])
    return {key: np.asarray(value) for key, value in outputs.items()}


def parameters(name: str, shapes: dict[str, tuple[int, ...]]) -> dict:
    """Ours, as `random_state` of `shapes` or the weights of LPIPS give them."""
    if name in FROM_STATE_DICT:
        return FROM_STATE_DICT[name](random_state(shapes))
    return registry.load(name)
