"""Encoder and decoder as programs that run without this package: of JAX, or of ONNX.

A program of JAX (`jax.export`) takes the weights as an argument, the dictionary that safetensors
reads, so that it is small and all programs share one file. A program of ONNX holds them.
"""

import functools
import importlib.util
import json
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from epsilon_vae.diffusion.path import DDPM
from epsilon_vae.errors import UserError, reason
from epsilon_vae.inference import sharing
from epsilon_vae.inference.autoencoder import Autoencoder
from epsilon_vae.inference.functions import Functions
from epsilon_vae.models.build import build_networks
from epsilon_vae.output import replacing
from epsilon_vae.versions import versions

INDEX = "programs.json"
_SUFFIXES = {"jax": "jax_export", "onnx": "onnx"}
_ONNX_BYTES = 2**31 - 2**20  # of what a file can hold, less what is not weights
_OPSET = 21


class ExportError(UserError):
    """What cannot be exported, and why."""


class Program(NamedTuple):
    """A function of parameters and arrays, what the arrays are, and its result's name."""

    function: Callable[..., jax.Array]
    inputs: dict[str, jax.ShapeDtypeStruct]
    output: str


def check(output: str, file_format: str) -> None:
    """Raises `ExportError` where something is at `output` already, or packages are missing."""
    if pathlib.Path(output).exists():
        raise ExportError(f"{output}: is there already; name another")
    if file_format == "onnx" and importlib.util.find_spec("jax2onnx") is None:
        raise ExportError("ONNX needs jax2onnx, which is not installed; pip install -e '.[onnx]'")


def export_programs(
    vae: Autoencoder,
    output: str,
    *,
    parts: Sequence[str],
    steps: Sequence[int],
    resolution: int,
    file_format: str,
    platforms: Sequence[str],
) -> list[str]:
    """Writes a folder of programs and `programs.json`, which describes them; whole, or not at all.

    Those of JAX have the folder of `save_pretrained` beside them, in float32. They decode from a
    seed, as `Autoencoder.decode`; those of ONNX from noise (`AutoencoderModel.decode_noise`), and
    compute in float32. A decoder without diffusion takes neither.

    Args:
      vae: to be exported.
      output: folder, which must not exist.
      parts: 'encode', 'decode' or both.
      steps: network evaluations; each gives a program that decodes.
      resolution: of the images, height and width.
      file_format: 'jax' or 'onnx'.
      platforms: for JAX, of 'cpu', 'cuda', 'rocm' and 'tpu'.

    Returns:
      The programs' files.

    Raises:
      ExportError: `output` is there, packages are missing, or a program cannot be exported.
      OutputError: it cannot be written.
    """
    check(output, file_format)
    programs = _programs(
        vae, parts=parts, steps=steps, resolution=resolution, is_onnx=file_format == "onnx"
    )
    weights = traverse_util.flatten_dict(jax.device_get(vae.params), sep="/")
    described = {}
    with replacing(pathlib.Path(output)) as partial:
        partial.mkdir()
        for name, program in programs.items():
            if file_format == "jax":
                content, arrays = _jax_program(program, weights, platforms)
            else:
                content, arrays = _onnx_program(program, weights)
            file = f"{name}.{_SUFFIXES[file_format]}"
            (partial / file).write_bytes(content)
            described[file] = arrays
        index = {
            "format": file_format,
            "platforms": list(platforms) if file_format == "jax" else [],
            "programs": described,
            "spacing": vae.spacing,
            "step": vae.step,
            "config": vae.config.to_dict(),
            "versions": versions(),
        }
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        if file_format == "jax":
            vae.save_pretrained(str(partial))
    return list(described)


def _programs(
    vae: Autoencoder,
    *,
    parts: Sequence[str],
    steps: Sequence[int],
    resolution: int,
    is_onnx: bool,
) -> dict[str, Program]:
    """Name → program, of batches of any size."""
    networks = vae.networks
    if resolution % networks.multiple:
        raise ExportError(
            f"resolution = {resolution}: the networks take multiples of {networks.multiple}"
        )
    if is_onnx:  # whose runtimes have bfloat16 in few operations
        config = vae.config.copy_and_resolve_references()
        config.dtype = "float32"
        networks = build_networks(config)
    functions = Functions(networks=networks, process=vae.process, spacing=vae.spacing)
    (batch,) = export.symbolic_shape("batch")
    side = resolution // networks.f
    images = jax.ShapeDtypeStruct((batch, resolution, resolution, 3), jnp.float32)
    latents = jax.ShapeDtypeStruct((batch, side, side, networks.encoder.n_z), jnp.float32)
    programs = {}
    if "encode" in parts:
        programs["encode"] = Program(functions.encode, {"images": images}, "latents")
    for nfe in dict.fromkeys(map(vae.nfe, steps)) if "decode" in parts else ():
        draws = nfe + 1 if isinstance(vae.process, DDPM) else 1
        noise = jax.ShapeDtypeStruct((draws, *images.shape[1:]), jnp.float32)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        inputs = {"latents": latents} | ({"noise": noise} if is_onnx else {"seed": seed})
        function = functools.partial(_decode, functions, nfe)
        if not vae.is_diffusion:
            function = functools.partial(function, start=np.zeros(noise.shape, np.float32))
            inputs = {"latents": latents}
        programs[f"decode_nfe{nfe}"] = Program(function, inputs, "images")
    return programs


def _decode(
    functions: Functions, nfe: int, params: dict, latents: jax.Array, start: jax.Array
) -> jax.Array:
    """Images from a seed, which is a scalar, or from noise `[1, …]`, or `[nfe + 1, …]` of steps."""
    if not start.ndim:
        return functions.decode(params, latents, jax.random.key(start), nfe)

    def draw(i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(start, i) if len(start) > 1 else start

    return functions.networks.decode_noise(
        params, functions.process, latents=latents, times=functions.times(nfe), draw=draw
    )


def _describe(names: Sequence[str], arrays: Sequence) -> dict[str, str]:
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in zip(names, arrays, strict=True)}


def _jax_program(
    program: Program, weights: dict[str, np.ndarray], platforms: Sequence[str]
) -> tuple[bytes, dict]:
    """The serialized program, and what it takes and gives."""
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}

    def call(weights: dict[str, jax.Array], *arrays: jax.Array) -> jax.Array:
        return program.function(traverse_util.unflatten_dict(weights, sep="/"), *arrays)

    inputs = program.inputs.values()
    exported = export.export(jax.jit(call), platforms=platforms)(shapes, *inputs)
    arrays = {
        "inputs": {"weights": sharing.WEIGHTS}
        | _describe([*program.inputs], [*program.inputs.values()]),
        "outputs": _describe([program.output], exported.out_avals),
    }
    return bytes(exported.serialize()), arrays


def _onnx_program(program: Program, weights: dict[str, np.ndarray]) -> tuple[bytes, dict]:
    """The model's file, and what it takes and gives.

    The function is traced here: what jax2onnx converts then is JAX's operations alone, since it
    would put its own in the place of some of Flax's functions, which it calls in another way.
    """
    size = sum(x.nbytes for x in weights.values())
    if size > _ONNX_BYTES:
        raise ExportError(
            f"weights of {size:,} bytes: a file of ONNX holds 2 GiB; take the format jax"
        )
    for name in ("jax2onnx", "onnx_ir"):  # which warn of what they leave out hundreds of times
        logging.getLogger(name).setLevel(logging.ERROR)
    from jax2onnx import to_onnx

    inputs = [*program.inputs.values()]
    params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(weights, sep="/"))
    traced = jax.make_jaxpr(functools.partial(program.function, params))(*inputs)
    function = jax.extend.core.jaxpr_as_fun(traced)
    try:
        model = to_onnx(
            lambda *arrays: function(*arrays)[0],
            inputs=inputs,
            model_name="epsilon_vae",
            opset=_OPSET,
            input_names=[*program.inputs],
            output_names=[program.output],
        )
    except Exception as error:  # whatever jax2onnx meets
        raise ExportError(
            f"jax2onnx cannot convert this network at {inputs[0].shape} ({reason(error)}); take "
            "the format jax"
        ) from error
    arrays = {
        "inputs": _describe([*program.inputs], inputs),
        "outputs": _describe([program.output], traced.out_avals),
    }
    return model.SerializeToString(), arrays
