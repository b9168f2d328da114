"""Files of torch are read without torch, and nothing of theirs is run."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from epsilon_vae.pretrained.torch_file import read_torch_checkpoint, read_torch_file
from tests.golden_params import GOLDEN

KINDS = ("zip", "legacy")


class Evil:
    """Makes a file when an ordinary unpickler reads it."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def zipped(pickled: bytes, **numbers: bytes) -> bytes:
    """As torch lays it out."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in numbers.items():
            archive.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def legacy(pickled: bytes) -> bytes:
    """As torch laid it out before; without numbers."""
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(part, 2) for part in header) + pickled + pickle.dumps([])


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_those_that_torch_saved(kind):
    """Contiguous, strided, sharing a storage, of several types, and a parameter."""
    arrays = read_torch_file((GOLDEN / f"torch_file_{kind}.pth").read_bytes())
    with np.load(GOLDEN / "torch_file.npz") as expected:
        assert sorted(arrays) == sorted(expected.files)
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype and not array.flags.writeable
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("wrap", [zipped, legacy])
def test_a_command_in_a_pickle_is_refused(wrap, tmp_path):
    """It is told apart from other errors: by the name of what it would have called."""
    data = wrap(pickle.dumps({"weight": Evil(tmp_path / "ran")}, 2))
    pickle.loads(pickle.dumps(Evil(tmp_path / "proof"), 2))
    assert (tmp_path / "proof").exists()
    with pytest.raises(ValueError, match=r"refused: it asks for (posix|nt)\.system"):
        read_torch_file(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["builtins.getattr", "torch.jit._script.ScriptModule", "numpy.ndarray", "torch.Storage"]
)
def test_other_globals_are_refused(name):
    """Harmless ones too: what the format needs is known."""
    module, attribute = name.rsplit(".", 1)
    pickled = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(ValueError, match=f"asks for {name}, and may hold nothing but arrays"):
        read_torch_file(zipped(pickled))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_is_refused(kind, share):
    data = (GOLDEN / f"torch_file_{kind}.pth").read_bytes()
    with pytest.raises(ValueError, match="cut short|truncated"):
        read_torch_file(data[: int(share * len(data))])


def test_a_tensor_may_not_reach_beyond_its_storage():
    """Four numbers are claimed, three are there."""
    with np.load(GOLDEN / "torch_file.npz") as arrays:
        half = arrays["half"].tobytes()
    data = (GOLDEN / "torch_file_legacy.pth").read_bytes()
    assert data.count(half) == 1
    data = data.replace(b"\x03" + bytes(7) + half, b"\x02" + bytes(7) + half[:4])
    with pytest.raises(ValueError, match="cut short"):
        read_torch_file(data)


@pytest.mark.parametrize("data", [b"", b"half a file", b"PK\3\4 and no zip", pickle.dumps([1])])
def test_other_files_are_refused(data):
    with pytest.raises(ValueError):
        read_torch_file(data)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("torch_checkpoint_llamagen.pt", "weight"),
        ("torch_checkpoint_lightning.ckpt", "first_stage_model.weight"),
    ],
)
def test_the_model_alone_is_read_of_a_checkpoint(name, weight):
    """Beside it lie an optimizer's tensors, arguments, a callback's class, NumPy's numbers."""
    data = (GOLDEN / name).read_bytes()
    arrays = read_torch_checkpoint(io.BytesIO(data), lambda names: [x for x in names if "w" in x])
    assert list(arrays) == [weight]
    np.testing.assert_array_equal(arrays[weight], np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="asks for (argparse.Namespace|pytorch_lightning.*), and"):
        read_torch_file(data)


def test_the_average_comes_before_the_model_and_bfloat16_is_read():
    with (GOLDEN / "torch_checkpoint_llamagen.pt").open("rb") as file:
        arrays = read_torch_checkpoint(file, list)
    assert sorted(arrays) == ["bias", "weight"] and arrays["bias"].dtype.name == "bfloat16"
    np.testing.assert_array_equal(arrays["bias"].astype(np.float32), [0.5, -1.0])


@pytest.mark.parametrize("wrap", [zipped, legacy])
def test_a_command_in_a_checkpoint_is_refused(wrap, tmp_path):
    data = wrap(pickle.dumps({"state_dict": {}, "args": Evil(tmp_path / "ran")}, 2))
    with pytest.raises(ValueError, match=r"refused: it asks for (posix|nt)\.system"):
        read_torch_checkpoint(io.BytesIO(data), list)
    assert not (tmp_path / "ran").exists()
