"""Writes `tests/golden/*.npz` from the PyTorch references: `python -m tests.parity.make_golden`.

Run it again only when a case, an input or the rule that fills weights has changed.
"""

import pathlib
import tempfile

import numpy as np
import torch

from epsilon_vae.pretrained import registry
from tests import golden_features, golden_params
from tests.parity import reference, reference_features, reference_lpips


def store(name: str, results: dict[str, np.ndarray]) -> None:
    """Keeps the whole output, and of each gradient its name, its scale and some values."""
    scales = golden_params.reference_scales(results)
    output = results.pop("output")
    names = sorted(results)
    np.savez_compressed(
        golden_params.GOLDEN / f"{name}.npz",
        output=output,
        names=np.array(names),
        scales=np.array([scales[name] for name in names]),
        samples=np.stack([golden_params.sample(results[name]) for name in names]),
    )


def store_features(
    name: str, results: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Keeps the outputs whole, and the shapes that random weights are made in."""
    np.savez_compressed(
        golden_params.GOLDEN / f"features_{name}.npz",
        names=np.array(list(shapes), str),
        shapes=np.array([" ".join(map(str, shape)) for shape in shapes.values()], str),
        **results,
    )


def store_all_features() -> None:
    """Of all frozen networks, for one batch of images."""
    images = golden_features.images()
    for net in golden_params.LPIPS_NETS:
        store_features(net, reference_features.run_lpips(net, images), {})
    shapes = reference_features.efficientnet_shapes()
    results = reference_features.run_efficientnet(random_tensors(shapes), images)
    store_features("efficientnet_lite0", results, shapes)
    shapes = reference_features.inception_shapes()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "random.pth"
        torch.save(random_tensors(shapes), file)
        store_features("inception", reference_features.run_inception(file, images), shapes)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """`golden_features.random_state` for PyTorch."""
    return {k: torch.tensor(v) for k, v in golden_features.random_state(shapes).items()}


def store_torch_files() -> None:
    """A small state dict in both formats that torch has saved them in, and its arrays."""
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    state = {
        "Conv2d_1a_3x3.conv.weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        "Conv2d_1a_3x3.bn.weight": torch.rand(4),
        "Conv2d_1a_3x3.bn.bias": torch.randn(4),
        "Conv2d_1a_3x3.bn.running_mean": torch.randn(4),
        "Conv2d_1a_3x3.bn.running_var": torch.rand(4) + 0.5,
        "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": torch.nn.Parameter(torch.randn(5, 4)),
        "half": torch.randn(3).half(),
        "whole": whole,
        "part": whole[1:, 2:5].T,
    }
    np.savez_compressed(
        golden_params.GOLDEN / "torch_file.npz", **{k: v.detach() for k, v in state.items()}
    )
    for kind, is_zip in (("zip", True), ("legacy", False)):
        path = golden_params.GOLDEN / f"torch_file_{kind}.pth"
        torch.save(state, path, _use_new_zipfile_serialization=is_zip)


def main() -> None:
    """One file a network and gain."""
    store_torch_files()
    store_all_features()
    for name, module in golden_params.MODELS.items():
        inputs = golden_params.model_inputs(module)
        for gain in golden_params.GAINS:
            params = golden_params.random_params(module, inputs, gain)
            store(f"{name}_gain{gain}", reference.run_torch(module, params, inputs))
    for net in golden_params.LPIPS_NETS:
        store(f"lpips_{net}", reference_lpips.run_torch_lpips(net, registry.load(net)))


if __name__ == "__main__":
    main()
