"""Files that torch itself writes, with what lies beside weights."""

import argparse
import io
import random

import numpy as np
import pytest

from epsilon_vae.pretrained.torch_file import read_torch_file
from tests.parity.requirements import require

require("torch")
import torch  # noqa: E402


def beside() -> dict:
    """Objects that training scripts save."""
    network = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    return {
        "device": torch.device("cuda:0"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "rng": (torch.get_rng_state(), np.random.get_state(), random.getstate()),
        "generator": np.random.default_rng(0),
        "network": network,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=np.float64(1e-4)),
        "float8": torch.zeros(2).to(torch.float8_e4m3fn),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "sparse": torch.eye(2).to_sparse(),
        "storage": torch.zeros(2).untyped_storage(),
    }


@pytest.mark.parametrize("is_zip", [True, False])
def test_weights_are_read_beside_anything(is_zip):
    weight = torch.nn.Parameter(torch.randn(3, 4).T)
    weight.note = "a parameter with a state"
    others = beside()
    if not is_zip:  # whose numbers come one after the other, so that all types must be known
        del others["float8"], others["complex"], others["storage"]
    state = torch.nn.Linear(4, 2).state_dict() | {"weight": weight, "half": weight.half()}
    file = io.BytesIO()
    torch.save(others | {"state_dict": state}, file, _use_new_zipfile_serialization=is_zip)
    file.seek(0)
    names = {f"state_dict.{name}": name for name in state}
    arrays = read_torch_file(file, names.keys().__and__)
    assert arrays.keys() == names.keys()
    for name, array in arrays.items():
        expected = state[names[name]].detach().numpy()
        np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.parametrize("name", ["float8", "complex", "sparse"])
def test_weights_of_other_types_are_named(name):
    file = io.BytesIO()
    torch.save({"layer": beside()[name]}, file)
    file.seek(0)
    with pytest.raises(ValueError, match="made by _rebuild|ComplexFloatStorage, which"):
        read_torch_file(file)
