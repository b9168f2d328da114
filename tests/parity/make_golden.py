"""Writes `tests/golden/*.npz` from the PyTorch references: `python -m tests.parity.make_golden`.

Run it again only when a case, an input or the rule that fills weights has changed.
"""

import numpy as np

from epsilon_vae.pretrained import lpips as pretrained
from tests import golden_params
from tests.parity import reference, reference_lpips


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


def main() -> None:
    """One file a network and gain."""
    for name, module in golden_params.MODELS.items():
        inputs = golden_params.model_inputs(module)
        for gain in golden_params.GAINS:
            params = golden_params.random_params(module, inputs, gain)
            store(f"{name}_gain{gain}", reference.run_torch(module, params, inputs))
    for net in golden_params.LPIPS_NETS:
        store(f"lpips_{net}", reference_lpips.run_torch_lpips(net, pretrained.load(net)))


if __name__ == "__main__":
    main()
