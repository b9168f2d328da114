"""A trained autoencoder as a folder that others can load, here or on the Hugging Face Hub.

It holds `config.json` (the config as a run has it), `model.safetensors` (the parameters by path,
with a checksum) and `README.md`, the model card.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from epsilon_vae.config import check_kind, check_values, from_dict, to_json
from epsilon_vae.data.latents import Normalization
from epsilon_vae.errors import reason
from epsilon_vae.hub import Repository, is_name
from epsilon_vae.inference.model_card import model_card
from epsilon_vae.models.build import public_normalization
from epsilon_vae.names import encode
from epsilon_vae.output import write_whole
from epsilon_vae.pretrained.layouts import check_shapes
from epsilon_vae.pretrained.weight_file import read_weights, safetensors_bytes
from epsilon_vae.pretrained.weights import WeightsError, check_is_file
from epsilon_vae.versions import versions

FORMAT = "epsilon_vae"  # that the metadata of our own files of weights name
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
DTYPES = ("float32", "bfloat16")


def save(folder: str, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Writes files into a folder, each whole or not at all, and touches no other.

    Args:
      folder: is made, unless it is there.
      files: by name.
      overwrite: files of these names may be there.

    Raises:
      WeightsError: they are there.
      OutputError: they cannot be written.
    """
    path = pathlib.Path(folder)
    if path.exists() and not path.is_dir():
        raise WeightsError(f"{folder}: is no folder; name another")
    there = {name for name in files if (path / name).exists()}
    if there and not overwrite:
        raise WeightsError(
            f"{folder}: has {', '.join(sorted(there))} already; name another, or replace them with "
            "overwrite=True"
        )
    for name, content in files.items():
        write_whole(path / name, content)


def metadata(
    config: ml_collections.ConfigDict, step: int | None, normalization: Normalization | None
) -> dict[str, str]:
    """What our files of weights say of them, besides the checksum."""
    known = {"format": FORMAT, "config": to_json(config), "versions": json.dumps(versions())}
    if step is not None:
        known["step"] = str(step)
    if normalization is not None:
        known["normalization"] = json.dumps(normalization._asdict())
    return known


def normalization_of(
    config: ml_collections.ConfigDict, stored: dict[str, Any] | None
) -> Normalization | None:
    """Mean and deviation of an autoencoder's latents by channel, None where they are not known.

    Args:
      config: whose own factors, if it has any, are taken.
      stored: what training has measured, as a checkpoint or a file of weights has it.

    Raises:
      ValueError: what is stored is none.
    """
    if public := public_normalization(config):
        return Normalization(*public)
    if stored is None:
        return None
    try:
        found = Normalization(**stored)
        found.check(config.model.encoder.n_z)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its normalization of latents is none ({error})") from error
    return found


def normalization_in(
    metadata: Mapping[str, str], config: ml_collections.ConfigDict, path: str
) -> Normalization | None:
    """`normalization_of` what the metadata of the file of weights at `path` say.

    Raises:
      WeightsError: they say what is none.
    """
    try:
        return normalization_of(config, json.loads(metadata.get("normalization", "null")))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def weights_bytes(
    params: dict,
    config: ml_collections.ConfigDict,
    *,
    step: int | None,
    normalization: Normalization | None,
    dtype: str = "float32",
) -> bytes:
    """The content of a safetensors file of parameters.

    Args:
      params: `{'encoder', 'decoder'}`.
      config: that they were trained with.
      step: of the checkpoint, if it is of one.
      normalization: of the latents, if it is known.
      dtype: one of `DTYPES`.
    """
    flat = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    arrays = {name: np.asarray(array).astype(dtype) for name, array in flat.items()}
    return safetensors_bytes(arrays, metadata(config, step, normalization))


def files_of(
    params: dict,
    config: ml_collections.ConfigDict | None,
    *,
    step: int | None,
    normalization: Normalization | None,
    name: str,
    dtype: str,
    evaluation: str | None,
    license: str | None,
) -> dict[str, bytes]:
    """The files of a folder by name, the weights first.

    Args:
      params: `{'encoder', 'decoder'}`.
      config: that they were trained with.
      step: of the checkpoint, if it is of one.
      normalization: of the latents, if it is known.
      name: by which the folder is loaded, for the card.
      dtype: of the weights, one of `DTYPES`.
      evaluation: `results.json` of an evaluation, or its folder; None for no numbers.
      license: of the weights, as the Hub knows it ('apache-2.0'); None if it is not known.

    Raises:
      ValueError: no config, another dtype, no license's name, or an evaluation of another model.
    """
    if config is None:
        raise ValueError("this autoencoder has no config, which a folder must have")
    if dtype not in DTYPES:
        raise ValueError(f"dtype = {dtype!r}: expected {' or '.join(DTYPES)}")
    card = model_card(
        config, step=step, name=name, dtype=dtype, evaluation=evaluation, license=license
    )
    return {
        WEIGHTS: weights_bytes(params, config, step=step, normalization=normalization, dtype=dtype),
        CONFIG: encode(to_json(config)),
        CARD: encode(card),
    }


def find(name: str, revision: str | None) -> pathlib.Path:
    """The folder itself, or that of a repository of the Hub, which is fetched.

    Args:
      name: of a folder; or, where there is none, OWNER/NAME.
      revision: of the repository: a branch, tag or commit.

    Raises:
      WeightsError: neither is there.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
    """
    folder = pathlib.Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or folder.parent.is_dir() or not is_name(name):
        raise WeightsError(
            f"{name}: neither a folder nor a model of epsilon_vae.list_models(); on the Hub, names "
            "are OWNER/NAME"
        )
    return Repository(name=name, revision=revision).download([CONFIG, WEIGHTS])


def load_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """The config in a folder.

    Raises:
      WeightsError: it has none, or a broken one.
      ConfigError: it is of a latent diffusion model.
    """
    path = folder / CONFIG
    check_is_file(path)
    try:
        config = from_dict(json.loads(path.read_bytes()))
        check_values(config)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder}: has no {CONFIG}; name a folder that save_pretrained made, or for weights "
            "of other projects python -m epsilon_vae.convert"
        ) from error
    except Exception as error:  # JSON of any type and depth
        raise WeightsError(
            f"{path}: is no config of epsilon_vae ({reason(error)}); weights of other projects "
            "become a run by python -m epsilon_vae.convert"
        ) from error
    check_kind(config, str(folder), latent_diffusion=False)
    return config


def load_weights(folder: pathlib.Path, shapes: dict) -> tuple[dict, Mapping[str, str]]:
    """The parameters in a folder, float32, and the metadata of their file.

    Args:
      folder: that has them.
      shapes: of the networks' parameters.

    Raises:
      WeightsError: there are none, or broken ones, or they do not fit the config.
    """
    path = folder / WEIGHTS
    try:
        weights = read_weights(str(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({reason(error)})") from error
    expected = traverse_util.flatten_dict(shapes, sep="/")
    try:
        check_shapes(weights.arrays, expected)
    except ValueError as error:
        raise WeightsError(f"{path} does not fit {CONFIG} beside it: {error}") from error
    flat = {name: array.astype(np.float32) for name, array in weights.arrays.items()}
    return traverse_util.unflatten_dict(flat, sep="/"), weights.metadata
