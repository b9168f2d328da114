"""Writes `tests/golden/*.npz` from the PyTorch references: `python -m tests.parity.make_golden`.

Run it again only when a case, an input or the rule that fills weights has changed.
"""

import argparse
import pathlib
import tempfile
import types
from unittest import mock

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


def store_torch_checkpoints() -> None:
    """What training scripts save: LlamaGen's, with its EMA, and PyTorch Lightning's."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weight = torch.arange(6.0).reshape(2, 3)
    llamagen = {
        "model": layer.state_dict(),
        "ema": {"weight": weight, "bias": torch.tensor([0.5, -1.0]).bfloat16()},
        "optimizer": optimizer.state_dict(),
        "steps": 7,
        "args": argparse.Namespace(vq_model="VQ-16", path=pathlib.PosixPath("data"), ema=True),
    }
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    parts = name.split(".")
    modules = {
        ".".join(parts[:i]): types.SimpleNamespace(ModelCheckpoint=callback)
        for i in range(1, len(parts) + 1)
    }
    lightning = {
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {callback: {"best_model_score": np.float64(0.5), "best_model_path": "a.ckpt"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "state_dict": {"first_stage_model.weight": weight, "cond_stage_model.bias": weight[0]},
    }
    with mock.patch.dict("sys.modules", modules):
        torch.save(llamagen, golden_params.GOLDEN / "torch_checkpoint_llamagen.pt")
        torch.save(
            lightning,
            golden_params.GOLDEN / "torch_checkpoint_lightning.ckpt",
            _use_new_zipfile_serialization=False,
        )


def main() -> None:
    """One file a network and gain."""
    store_torch_files()
    store_torch_checkpoints()
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
