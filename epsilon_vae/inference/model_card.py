"""The model card of an autoencoder: what it is, its numbers, its data, its license, how to load."""

import hashlib
import json
import pathlib
import re
from typing import Any

import ml_collections

import epsilon_vae
from epsilon_vae.config import to_json
from epsilon_vae.errors import reason
from epsilon_vae.names import markdown, printable
from epsilon_vae.versions import versions

_LOAD = """```python
import epsilon_vae

vae = epsilon_vae.from_pretrained("{name}")
latents = vae.encode(images)  # uint8, or float in [-1, 1]; one image or a batch; any size
images = vae.decode(latents, steps={nfe}, seed=0)
```"""
_NOT_MEASURED = "Not measured."
_NO_LICENSE = "Not stated. Ask whoever made these weights before you use them."


def model_card(
    config: ml_collections.ConfigDict,
    *,
    step: int | None,
    name: str,
    dtype: str,
    evaluation: str | None,
    license: str | None,
) -> str:
    """A model card in Markdown, with the header that the Hub reads.

    Args:
      config: that the weights were trained with.
      step: of the checkpoint, if it is of one.
      name: by which the weights are loaded.
      dtype: of the weights.
      evaluation: `results.json` of an evaluation, or its folder; None for no numbers.
      license: of the weights, as the Hub knows it; None if it is not known.

    Raises:
      ValueError: the license has no such name, or the evaluation is none, or of another model.
    """
    if license is not None and not re.fullmatch(r"[\w.-]+", license):
        raise ValueError(f"license = {license!r}: expected a name as the Hub has, as 'apache-2.0'")
    model, made = config.model, versions()
    header = {"library_name": "epsilon_vae", "tags": "[autoencoder, jax]"}
    if license is not None:
        header["license"] = license
    described = {
        "encoder": f"{model.encoder.name}, f {model.encoder.f}, {model.encoder.n_z} channels, "
        f"bottleneck {model.bottleneck.name}",
        "decoder": f"{model.decoder.name}, size {model.decoder.size}",
        "process": f"{config.flow.process}, spacing {config.flow.spacing}",
        "weights": f"{dtype}, of step {'unknown' if step is None else step}",
        "computes in": config.dtype,
        "saved by": f"epsilon_vae {epsilon_vae.__version__}, {made['git_commit']}",
    }
    sections = {
        "How to load": _LOAD.format(name=printable(name), nfe=config.flow.nfe),
        "Numbers": _NOT_MEASURED if evaluation is None else _numbers(evaluation, config, step),
        "Training data": _bullets(_data(config.data)),
        "License": _NO_LICENSE if license is None else f"`{license}`, of the weights.",
    }
    lines = ["---", *(f"{key}: {value}" for key, value in header.items()), "---", ""]
    lines += ["# ε-VAE", "", "An image autoencoder; its paper is arXiv 2410.04081.", ""]
    lines += [_bullets(described)]
    for title, text in sections.items():
        lines += ["", f"## {title}", "", text]
    return "\n".join(lines) + "\n"


def _data(data: ml_collections.ConfigDict) -> dict[str, Any]:
    """What the config says of the data; of paths of a machine the last part alone."""
    names = [data.source, data.tfds_name, pathlib.PurePath(data.path).name]
    is_folder = data.source == "folder"
    return {
        "source": " ".join(filter(None, names)),
        "trained on": data.train_split,
        "held out": data.val_split + (f", or {data.held_out} of one folder" if is_folder else ""),
        "crops": f"{data.crop}, {data.resolution} px",
    }


def _bullets(values: dict[str, Any]) -> str:
    return "\n".join(f"- {markdown(key)}: {_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    """A value of JSON as Markdown; numbers to four digits after the point."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and value:
        return ", ".join(map(_text, value))
    return "–" if value in (None, "", []) else markdown(str(value))


def _numbers(evaluation: str, config: ml_collections.ConfigDict, step: int | None) -> str:
    """The table of this model's rows, their notes, and the protocol."""
    path = pathlib.Path(evaluation)
    if path.is_dir():
        path /= "results.json"
    try:
        results = json.loads(path.read_bytes())
        data, protocol = results["data"], results["protocol"]
        # Earlier versions, which do not say, decoded one by one.
        stamp = {"images": f"{data['num_images']} of {data['source']}", "group_size": 1} | protocol
        weights, measured = protocol["weights"], results["reconstructors"]
        rows = [
            row for row in results["rows"] if row["reconstructor"] in _names(measured, config, step)
        ]
        notes = dict.fromkeys(note for row in rows for note in row["notes"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: is no results.json of an evaluation of reconstructions ({reason(error)})"
        ) from error
    if weights != "ema" or not rows:
        others = ", ".join(f"{x['name']}, step {x.get('step')}" for x in measured)
        raise ValueError(
            f"{path}: measured {others}, {weights} weights; not this model's, of step {step} with "
            "its config, ema weights; name an evaluation of it"
        )
    columns = [key for key in rows[0] if key not in ("reconstructor", "notes")]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_text(row.get(key)) for key in columns)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_text(x)}" for x in notes), "", _bullets(stamp)])


def _names(
    reconstructors: list[dict], config: ml_collections.ConfigDict, step: int | None
) -> list[str]:
    """Under which names an evaluation has this model."""
    config_hash = hashlib.sha256(to_json(config).encode()).hexdigest()[:12]
    wanted = {"kind": "run", "step": step, "config_hash": config_hash}
    return [x["name"] for x in reconstructors if wanted.items() <= x.items()]
