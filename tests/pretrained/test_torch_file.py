"""Files of torch are read without torch, and nothing of theirs is run."""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import random
import sys
import types

import ml_dtypes
import numpy as np
import pytest

from epsilon_vae.pretrained.torch_file import read_torch_file
from tests.golden_params import GOLDEN
from tests.pretrained.files import legacy, member, tensor_pickle, zipped

KINDS = ("zip", "legacy")


class Evil:
    """Makes a file when an ordinary unpickler reads it."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def read(data: bytes, choose=list) -> dict[str, np.ndarray]:
    return read_torch_file(io.BytesIO(data), choose)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_those_that_torch_saved(kind):
    """Contiguous, strided, sharing a storage, of several types, and a parameter."""
    arrays = read((GOLDEN / f"torch_file_{kind}.pth").read_bytes())
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
        read(data)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins.getattr", "__builtin__.eval", "subprocess.Popen"])
def test_what_python_runs_is_refused(name):
    module, attribute = name.rsplit(".", 1)
    pickled = f"c{module}\n{attribute}\n.".encode()
    with pytest.raises(ValueError, match=f"refused: it asks for {name}, which no weights need"):
        read(zipped(pickled))


@pytest.mark.parametrize(
    "built",
    [
        b"ctorch\nBFloat16Storage\n}Vitemsize\nI1\nsb",
        b"ctorch._utils\n_rebuild_tensor_v2\n}Vto_array\nNsb",
        b"ccollections\nOrderedDict\n}Vpop\nNsb",
        b"}}Vx\nNsb",
    ],
)
@pytest.mark.parametrize("wrap", [zipped, legacy])
def test_a_pickle_cannot_change_what_it_names(wrap, built):
    """All names are texts; a `bfloat16` of itemsize 1 once was the whole process's."""
    with pytest.raises(ValueError, match="refused: it changes what it has not made"):
        read(wrap(built + b"."))
    assert ml_dtypes.bfloat16 is not None and np.dtype(ml_dtypes.bfloat16).itemsize == 2


class Anything:
    """Stands for a class of a package that is not installed here, with any state."""

    def __init__(self):
        self.content = [1, {"a": (2.5, None)}, np.float64(0.5)]


def foreign(path: str, monkeypatch) -> Anything:
    """An object that pickle says is `path`'s."""
    module, name = path.rsplit(".", 1)
    kind = type(name, (Anything,), {"__module__": module})
    for at in range(1, module.count(".") + 2):
        parent = ".".join(module.split(".")[:at])
        monkeypatch.setitem(sys.modules, parent, types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: kind}))
    return kind()


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_objects_beside_weights_are_passed_over(protocol, monkeypatch):
    """They are read, and nothing is made of them."""
    beside = [
        *(
            foreign(path, monkeypatch)
            for path in (
                "omegaconf.listconfig.ListConfig",
                "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
                "main.Config",
                "torch.device",
            )
        ),
        np.random.get_state(),
        np.random.default_rng(0),
        np.ones((2, 3), np.float16),
        np.dtype("int32"),
        random.getstate(),
        argparse.Namespace(path=pathlib.PurePosixPath("a"), since=datetime.datetime(2020, 1, 1)),
        collections.defaultdict(list, {("a", 1): {2}}),
        collections.OrderedDict(a=1),
        {int: 1, None: frozenset([2**70])},
        b"bytes",
        bytearray(b"more"),
        float,
        1j,
    ]
    tensor = tensor_pickle((2, 2), (1, 2), 4).removesuffix(b".")
    tensor += b"Vdtype\nctorch\nfloat16\n"
    data = b"}(Vstate_dict\n" + tensor + b"Vbeside\n" + pickle.dumps(beside, protocol)[:-1] + b"u."
    arrays = read(zipped(data, **{"0": np.arange(4, dtype=np.float32).tobytes()}))
    np.testing.assert_array_equal(arrays.pop("state_dict.encoder.down.0"), [[0, 2], [1, 3]])
    assert not arrays


@pytest.mark.parametrize("average", [b"N", b"}Vdecay\nF0.999\ns"])
def test_an_average_without_tensors_is_passed_over(average):
    tensor = tensor_pickle((4,), (1,), 4).removesuffix(b".")
    data = zipped(b"}(Vema\n" + average + b"Vmodel\n" + tensor + b"u.", **{"0": bytes(16)})
    assert list(read(data)) == ["model.encoder.down.0"]


def test_a_state_dict_of_python_2_is_read():
    """It gives an ordered dictionary's entries as pairs."""
    tensor = tensor_pickle((4,), (1,), 4).removeprefix(b"}Vencoder.down.0\n").removesuffix(b"s.")
    data = b"ccollections\nOrderedDict\n((l(U\x01a" + tensor + b"latR."
    assert read(zipped(data, **{"0": bytes(16)}))["a"].shape == (4,)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tensor_pickle((5,), (1,), 4), "has more numbers than its storage"),
        (tensor_pickle((2**40,), (0,), 4), "has more numbers than its storage"),
        (tensor_pickle((2,), (4,), 4), "strides is incompatible|too small"),
        (tensor_pickle((4,), (-1,), 4), "that are no numbers"),
        (tensor_pickle((4,), (1, 1), 4), "1 dimensions and 2 strides"),
        (tensor_pickle((4,), (1,), 5), "storage 0 has 16 bytes, not 20"),
        (b"}.", "no dictionary of tensors"),
        (tensor_pickle((4,), (1,), 4).replace(b"Float", b"ComplexFloat"), "torch.ComplexFloatSto"),
        (tensor_pickle((4,), (1,), 4).replace(b"tensor_v2", b"qtensor"), "made by _rebuild_qten"),
    ],
)
def test_what_is_no_tensor_of_its_storage_is_refused(data, words):
    with pytest.raises(ValueError, match=words):
        read(zipped(data, **{"0": bytes(16)}))


def test_a_compressed_zip_is_refused():
    """One of a megabyte may have gigabytes in it."""
    data = zipped(tensor_pickle((4,), (1,), 4), compress=True, **{"0": bytes(16)})
    with pytest.raises(ValueError, match="'archive/data.*' is compressed"):
        read(data)


def test_a_big_endian_zip_is_refused():
    data = (GOLDEN / "torch_file_zip.pth").read_bytes()
    assert member(data, "torch_file_zip/byteorder") == b"little"
    other = zipped(tensor_pickle((4,), (1,), 4), order=b"big", **{"0": bytes(16)})
    with pytest.raises(ValueError, match="big-endian"):
        read(other)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_is_refused(kind, share):
    data = (GOLDEN / f"torch_file_{kind}.pth").read_bytes()
    with pytest.raises(ValueError, match="cut short|truncated"):
        read(data[: int(share * len(data))])


def test_a_tensor_may_not_reach_beyond_its_storage():
    """Four numbers are claimed, three are there."""
    with np.load(GOLDEN / "torch_file.npz") as arrays:
        half = arrays["half"].tobytes()
    data = (GOLDEN / "torch_file_legacy.pth").read_bytes()
    assert data.count(half) == 1
    data = data.replace(b"\x03" + bytes(7) + half, b"\x02" + bytes(7) + half[:4])
    with pytest.raises(ValueError, match="cut short"):
        read(data)


@pytest.mark.parametrize("data", [b"", b"half a file", b"PK\3\4 and no zip", pickle.dumps([1])])
def test_other_files_are_refused(data):
    with pytest.raises(ValueError):
        read(data)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("torch_checkpoint_llamagen.pt", "ema.weight"),
        ("torch_checkpoint_lightning.ckpt", "state_dict.first_stage_model.weight"),
    ],
)
def test_what_is_chosen_alone_is_read_of_a_checkpoint(name, weight):
    """Beside it lie an optimizer's tensors, arguments, a callback's class, NumPy's numbers."""
    data = (GOLDEN / name).read_bytes()
    arrays = read(data, lambda names: [x for x in names if x == weight])
    assert list(arrays) == [weight]
    np.testing.assert_array_equal(arrays[weight], np.arange(6).reshape(2, 3))


def test_bfloat16_is_read():
    with (GOLDEN / "torch_checkpoint_llamagen.pt").open("rb") as file:
        arrays = read_torch_file(file)
    assert sorted(arrays) == ["ema.bias", "ema.weight", "model.bias", "model.weight"]
    assert arrays["ema.bias"].dtype.name == "bfloat16"
    np.testing.assert_array_equal(arrays["ema.bias"].astype(np.float32), [0.5, -1.0])


def test_dictionaries_in_dictionaries_are_read_once():
    """In the first of many that name them: 40 levels of two would be 2^40 otherwise."""
    tensor = tensor_pickle((4,), (1,), 4).removesuffix(b".")
    levels = [b"}(Va\nh%cVb\nh%cuq%c" % (i, i, i + 1) for i in range(40)]
    data = tensor + b"q\x00" + b"0".join([b"", *levels]) + b"."
    [name] = read(zipped(data, **{"0": bytes(16)}))
    assert name == "a." * 40 + "encoder.down.0"


def test_dictionaries_without_end_have_no_tensors():
    with pytest.raises(ValueError, match="no dictionary of tensors"):
        read(zipped(b"}Va\n" * 10_000 + b"}" + b"s" * 10_000 + b"."))
    with pytest.raises(ValueError, match="no dictionary of tensors"):
        read(zipped(b"}q\x00Va\nh\x00s."))


def test_a_module_that_was_saved_whole_is_read():
    """By its parameters and the modules in it; nothing is made of it."""
    tensor = tensor_pickle((4,), (1,), 4).removesuffix(b".")
    inner = b"cvae\nDecoder\n)\x81}(V_parameters\n" + tensor + b"V_modules\n}ub"
    outer = b"cvae\nVAE\n)\x81}(V_parameters\n}V_modules\n}Vmid\n" + inner + b"sub."
    assert list(read(zipped(b"\x80\x02" + outer, **{"0": bytes(16)}))) == ["mid.encoder.down.0"]


@pytest.mark.parametrize("wrap", [zipped, legacy])
def test_a_command_in_a_checkpoint_is_refused(wrap, tmp_path):
    data = wrap(pickle.dumps({"state_dict": {}, "args": Evil(tmp_path / "ran")}, 2))
    with pytest.raises(ValueError, match=r"refused: it asks for (posix|nt)\.system"):
        read(data)
    assert not (tmp_path / "ran").exists()
