"""From tallies to numbers, each beside its protocol: rows, results.json, the Markdown table."""

import csv
import json
import pathlib
from collections.abc import Iterable, Sequence

import ml_collections
import numpy as np

from epsilon_vae.evaluation.measure import ORIGINALS, Key, Tally
from epsilon_vae.evaluation.protocol import distance_name
from epsilon_vae.evaluation.tables import results_table
from epsilon_vae.metrics.frechet import frechet_distance

# rFID of ImageNet's validation set by resolution, trained at 128 px, NFE 3 (paper, Tables 1 and 8).
PAPER_RFID = {
    ("sd", 8): {
        "b": {128: 1.94, 256: 0.65, 512: 0.61},
        "m": {128: 1.58, 256: 0.55, 512: 0.53},
        "l": {128: 1.47, 256: 0.52, 512: 0.41},
        "xl": {128: 1.34, 256: 0.49, 512: 0.39},
        "h": {128: 1.00, 256: 0.44, 512: 0.35},
    },
    ("lite", 16): {
        "b": {128: 6.24},
        "m": {128: 5.42},
        "l": {128: 4.71},
        "xl": {128: 4.18},
        "h": {128: 4.04},
    },
}
# The same after a second stage at 256 px, at 256 px (paper, Tables 1 and 2).
PAPER_FINETUNED = {
    ("sd", 8): {"b": 0.52, "m": 0.47, "l": 0.45, "xl": 0.43, "h": 0.38},
    ("sd", 16): {"m": 1.91, "h": 1.35},
}
# PSNR and SSIM of those (paper, Table 2).
PAPER_SIMILARITY = {
    ("sd", 8): {"m": (27.65, 0.841), "h": (29.49, 0.851)},
    ("sd", 16): {"m": (21.27, 0.693), "h": (22.60, 0.711)},
}


def rows(resolution: int, tallies: dict[Key, Tally]) -> list[dict]:
    """Each subject's numbers at each NFE: means over images, distances, time.

    `notes` says what is to be known of them, as that images are too few.
    """
    originals = tallies[ORIGINALS]
    return [_row(k, resolution, t, originals) for k, t in tallies.items() if k != ORIGINALS]


def _row(key: Key, resolution: int, tally: Tally, originals: Tally) -> dict:
    subject, nfe = key
    num_images = sum(map(len, next(iter(tally.values.values()))))
    found = {"subject": subject, "resolution": resolution, "nfe": nfe, "num_images": num_images}
    notes = []
    references = originals.statistics()
    for features, statistics in tally.statistics().items():
        name = distance_name(features)
        notes += notes_on_distance(name, statistics.mean.size, num_images)
        if num_images < 2:
            found[name] = None
            continue
        found[name] = frechet_distance(references[features].gaussian(), statistics.gaussian())
    found |= tally.means()
    found["decode_seconds"] = float(np.median(tally.seconds)) if tally.seconds else None
    return found | {"notes": notes}


def notes_on_distance(name: str, dim: int, num_images: int) -> list[str]:
    """What is to be known of a Fréchet distance over `dim` features, perhaps nothing."""
    if num_images < 2:
        return [f"{name} needs two images"]
    if num_images > dim:
        return []
    return [
        f"{name} is over {dim} features of {num_images} images, which are too few: it is biased "
        "upwards, and compares only with others of the same images"
    ]


def paper_rows(
    subject: str, config: ml_collections.ConfigDict, resolutions: Sequence[int]
) -> list[dict]:
    """What the paper has for a run's networks at these resolutions, perhaps nothing.

    Its numbers are of ImageNet's 50,000 validation images and of its own training.
    """
    encoder, size = config.model.encoder, config.model.decoder.size
    setup = encoder.name, encoder.f
    finetuned = bool(config.init_from) and config.data.resolution == 256
    rows = []
    for resolution in resolutions:
        rfid = psnr = ssim = None
        if finetuned and resolution == 256:
            rfid = PAPER_FINETUNED.get(setup, {}).get(size)
            psnr, ssim = PAPER_SIMILARITY.get(setup, {}).get(size, (None, None))
        elif not finetuned:
            rfid = PAPER_RFID.get(setup, {}).get(size, {}).get(resolution)
        if rfid is not None:
            name = f"paper, {encoder.name} f {encoder.f}, {size.upper()}, ImageNet"
            place = {"subject": subject, "resolution": resolution, "nfe": 3, "num_images": 50_000}
            rows.append(place | {"name": name, "rfid": rfid, "psnr": psnr, "ssim": ssim})
    return rows


def write_per_image(path: pathlib.Path, names: Sequence[str], tallies: dict[Key, Tally]) -> None:
    """A CSV file with a line for each image, subject and NFE: all metrics of it."""
    keys = [key for key in tallies if key != ORIGINALS]
    metrics = list(tallies[keys[0]].values)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "name", "subject", "nfe", *metrics])
        for key in keys:
            columns = [tallies[key].per_image(metric) for metric in metrics]
            for index, values in enumerate(zip(*columns, strict=True)):
                numbers = (f"{value:.6g}" for value in values)
                writer.writerow([index, names[index], key[0], key[1] or "", *numbers])


def write_json(path: pathlib.Path, results: dict) -> None:
    """results.json: protocol, data, versions, subjects, rows and the paper's.

    JSON has no infinite number: the PSNR of pictures equal to their originals is "Infinity".
    """
    strict = json.loads(json.dumps(results), parse_constant=str)
    path.write_text(json.dumps(strict, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(results: dict) -> str:
    """The table, with the protocol above and the notes below."""
    protocol, data = results["protocol"], results["data"]
    table = results_table(results["rows"], results["paper"])
    lines = [
        f"Protocol `{protocol['name']}`: {data['num_images']} images of `{data['source']}`, crop "
        f"{protocol['crop']}, {protocol['weights']} weights, seed {protocol['seed']}, features "
        f"{', '.join(protocol['features'])}. The rest is in results.json.",
        "",
        table_line(table["columns"]),
        "|---" * len(table["columns"]) + "|",
    ]
    for row in table["rows"]:
        texts = [cell["text"] + "".join(f" [{n}]" for n in cell["notes"]) for cell in row["cells"]]
        lines.append(table_line(f"*{text}*" if row["is_paper"] else text for text in texts))
    notes = [f"- [{number}] {note}" for number, note in enumerate(table["notes"], 1)]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def table_line(cells: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
