"""Which files of a folder, or of a repository on the Hugging Face Hub, are a network's weights."""

import json
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from epsilon_vae.errors import reason
from epsilon_vae.hub import PREFIX, Repository, is_name
from epsilon_vae.pretrained.weights import WeightsError, check_is_file

_SHARD = r".*-\d+-of-\d+\.\w+"
_STEM = r"(diffusion_pytorch_model|pytorch_model|model)"
# What is taken of a folder, the first that is there: all of float32 before half of it.
_ORDER = (
    rf"{_STEM}\.safetensors(\.index\.json)?",
    rf"{_STEM}\.bin(\.index\.json)?",
    rf"{_STEM}\.\w+\.safetensors|{_STEM}\.safetensors\.index\.\w+\.json",
    rf"{_STEM}\.\w+\.bin|{_STEM}\.bin\.index\.\w+\.json",
    r".+\.safetensors",
    r".+\.(bin|pt|pth|ckpt)",
)
# Of diffusers, what the layouts here have. What the others are, where they are taken for these.
_CLASSES = ("AutoencoderKL", "AutoencoderKLFlux2", "AsymmetricAutoencoderKL", "VQModel")
_CLASSES += ("DiTTransformer2DModel", "Transformer2DModel")
_OTHERS = {
    r"AutoencoderTiny": " (TAESD), not the AutoencoderKL that it imitates",
    r"AutoencoderDC": " (DC-AE)",
    r"AutoencoderKL.*(Video|Wan|LTX|Mochi|Allegro|Magvit|Temporal|Qwen|Cosmos).*|.*VidTok": (
        ", a 3-D VAE, for video"
    ),
}
_BESIDE = r"(optimizer|scheduler|training_args|random_states_\d+|rng_state(_\d+)?)\..*"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_MAX_JSON_BYTES = 2**24


class Found(NamedTuple):
    """Files of weights, more than one if they are shards, and the `config.json` beside them."""

    files: list[pathlib.Path]
    config: dict[str, Any]


def find_weights(path: str, parts: Sequence[str] = ("vae", "vqvae")) -> Found:
    """The files that hold a network's weights.

    Args:
      path: a file; a folder, as diffusers' of a network or of a pipeline, or as the Hub's cache has
        it; or 'OWNER/NAME', which is fetched from the Hub unless there is such a file or folder.
      parts: of a pipeline, the folders that may be the network.

    Raises:
      WeightsError: nothing there can be used, or more than one thing could be meant.
      HubError: the Hub does not give it, or huggingface_hub is not installed.
      OSError: no such file.
    """
    local = pathlib.Path(path)
    if local.is_dir():
        root = _snapshot(local)
        names = [x.relative_to(root).as_posix() for x in (*root.glob("*"), *root.glob("*/*"))]
        return _found(path, names, parts, lambda name: root / name)
    is_hubs = is_name(path) and not local.parent.exists() and local.suffix not in _SUFFIXES
    if is_hubs or path.startswith(PREFIX):
        names, repository = Repository(name=path.removeprefix(PREFIX)).files()
        return _found(path, names, parts, lambda name: repository.download([name]) / name)
    beside = local.with_name("config.json")
    is_diffusers = local.name.startswith("diffusion_pytorch_model.") and beside.is_file()
    return Found([local], _read_config(beside) if is_diffusers else {})


def _snapshot(folder: pathlib.Path) -> pathlib.Path:
    """What the Hub's cache has checked out in a repository's folder; other folders themselves."""
    main = folder / "refs" / "main"
    inside = folder / "snapshots" / main.read_text().strip() if main.is_file() else folder
    return inside if inside.is_dir() else folder


def _found(
    path: str, names: Sequence[str], parts: Sequence[str], fetch: Callable[[str], pathlib.Path]
) -> Found:
    """Chooses among the names of files in a folder and in the folders in it.

    Args:
      path: of the folder, for messages.
      names: relative to it.
      parts: as `find_weights`'.
      fetch: name → file.
    """
    folder = next((f"{x}/" for x in parts if any(n.startswith(f"{x}/") for n in names)), "")
    inside = [n.removeprefix(folder) for n in names if n.startswith(folder)]
    config = _read_config(fetch(f"{folder}config.json")) if "config.json" in inside else {}
    name = _choose(f"{path.rstrip('/')}/{folder}", inside)
    file = fetch(folder + name)
    if ".index." not in name:
        return Found([file], config)
    shards = _read_json(file).get("weight_map")
    shards = sorted(set(shards.values())) if isinstance(shards, dict) else []
    missing = [shard for shard in shards if shard not in inside]
    if missing or not shards:
        raise WeightsError(
            f"{path}: {name} names {len(shards)} shards, of which {len(missing)} are not there"
            f"{f', as {missing[0]}' if missing else ''}; download the folder whole"
        )
    return Found([fetch(folder + shard) for shard in shards], config)


def _choose(folder: str, names: Sequence[str]) -> str:
    whole = [n for n in names if not re.fullmatch(rf"{_SHARD}|{_BESIDE}|\..*|.*/.*", n)]
    for pattern in _ORDER:
        found = sorted(name for name in whole if re.fullmatch(pattern, name))
        if len(found) > 1:
            raise WeightsError(f"{folder}: has {', '.join(found[:6])}; name the one that is meant")
        if found:
            return found[0]
    shards = any(re.fullmatch(_SHARD, name) for name in names)
    what = "shards without their .index.json" if shards else "no weights (.safetensors, .bin, .pt)"
    some = f"has {what}, but {', '.join(sorted(names)[:6])}" if names else "is empty"
    raise WeightsError(f"{folder}: {some}; name a file of weights, or the folder that has one")


def _read_config(file: pathlib.Path) -> dict[str, Any]:
    """A network's `config.json`; raises `WeightsError` for networks that no config here has."""
    config = _read_json(file)
    name = config.get("_class_name", _CLASSES[0])
    if name not in _CLASSES:
        what = next((x for pattern, x in _OTHERS.items() if re.fullmatch(pattern, str(name))), "")
        raise WeightsError(
            f"{file}: is diffusers' {str(name)[:60]}{what}; the networks here are those of "
            f"{', '.join(_CLASSES)}"
        )
    return config


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    check_is_file(file)
    try:
        with file.open("rb") as opened:
            value = json.loads(opened.read(_MAX_JSON_BYTES))
        if isinstance(value, dict):
            return value
        problem = "it is no dictionary"
    except (ValueError, RecursionError) as error:
        problem = reason(error)
    raise WeightsError(f"{file}: cannot be read as JSON ({problem}); take another copy")
