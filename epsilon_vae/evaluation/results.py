"""From tallies to numbers, each beside its protocol: rows, results.json, the Markdown table."""

import csv
import json
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from epsilon_vae.evaluation.measure import ORIGINALS, Key, Tally
from epsilon_vae.evaluation.protocol import distance_name
from epsilon_vae.metrics.frechet import frechet_distance

# Column of the Markdown table → its title and the format of its numbers.
TITLES = {
    "rfid": ("rFID", "{:.4g}"),
    "fd_alexnet": ("fd_alexnet", "{:.4g}"),
    "fd_vgg16": ("fd_vgg16", "{:.4g}"),
    "fd_efficientnet_lite0": ("fd_efficientnet_lite0", "{:.4g}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "ssim_range2": ("SSIM, range 2", "{:.4f}"),
    "lpips_vgg16": ("LPIPS VGG16", "{:.4f}"),
    "lpips_alexnet": ("LPIPS AlexNet", "{:.4f}"),
    "decode_seconds": ("decoding, ms an image", "{:.1f}"),
}

# rFID of ImageNet's validation set at 128, 256 and 512 px (paper, Tables 1 and 8), all at NFE 3.
PAPER_RFID = {
    ("sd", 8): {
        "b": (1.94, 0.65, 0.61),
        "m": (1.58, 0.55, 0.53),
        "l": (1.47, 0.52, 0.41),
        "xl": (1.34, 0.49, 0.39),
        "h": (1.00, 0.44, 0.35),
    },
    ("lite", 16): {"b": (6.24,), "m": (5.42,), "l": (4.71,), "xl": (4.18,), "h": (4.04,)},
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
    for features, statistics in tally.statistics.items():
        name, dim = distance_name(features), statistics.mean.size
        if num_images < 2:
            found[name] = None
            notes.append(f"{name}: a covariance needs two images")
            continue
        reference = originals.statistics[features].gaussian()
        found[name] = frechet_distance(reference, statistics.gaussian())
        if num_images <= dim:
            notes.append(
                f"{name}: {num_images} images are too few for {dim} features; it is biased "
                "upwards, and compares only with others of the same images"
            )
    found |= tally.means()
    found["decode_seconds"] = float(np.median(tally.seconds))
    return found | {"notes": notes}


def paper_rows(subject: str, config: ml_collections.ConfigDict, resolutions: Sequence[int]):
    """What the paper has for a run's networks at these resolutions: rows, perhaps none.

    They are of ImageNet's validation set and of training as the paper's, which the run's may not
    have been.
    """
    encoder, size = config.model.encoder, config.model.decoder.size
    setup = encoder.name, encoder.f
    finetuned = bool(config.init_from) and config.data.resolution == 256
    rows = []
    for resolution in resolutions:
        values: dict[str, float] = {}
        if finetuned and resolution == 256:
            values["rfid"] = PAPER_FINETUNED.get(setup, {}).get(size)
            similarity = PAPER_SIMILARITY.get(setup, {}).get(size)
            if similarity:
                values["psnr"], values["ssim"] = similarity
        elif not finetuned and resolution in (128, 256, 512):
            place = (128, 256, 512).index(resolution)
            values["rfid"] = dict(enumerate(PAPER_RFID.get(setup, {}).get(size, ()))).get(place)
        if values.get("rfid") is not None:
            name = f"paper: ε-VAE {size.upper()}, {encoder.name} f {encoder.f}"
            name += ", after 256 px" if finetuned else ""
            rows.append(
                {"subject": subject, "resolution": resolution, "name": name, "nfe": 3} | values
            )
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
    """results.json: protocol, data, versions, subjects, rows and the paper's."""
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(results: dict) -> str:
    """The table, with the protocol above and the notes below."""
    protocol, data = results["protocol"], results["data"]
    columns = [name for name in TITLES if any(row.get(name) is not None for row in results["rows"])]
    lines = [
        f"Protocol `{protocol['name']}`: {data['num_images']} images of `{data['source']}`, crop "
        f"{protocol['crop']}, {protocol['weights']} weights, seed {protocol['seed']}, features "
        f"{', '.join(protocol['features'])}. The rest is in results.json.",
        "",
        "| model | px | NFE | " + " | ".join(TITLES[name][0] for name in columns) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for measured in results["rows"]:
        lines.append(_line(measured["subject"], measured, columns, bool(measured["notes"])))
        lines += [
            _line(f"*{paper['name']}*", paper, columns)
            for paper in results["paper"]
            if _is_last_before(paper, measured, results["rows"])
        ]
    notes = dict.fromkeys(note for measured in results["rows"] for note in measured["notes"])
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def _is_last_before(paper: dict, measured: dict, rows: list[dict]) -> bool:
    same = [row for row in rows if _place(row) == _place(paper)]
    return bool(same) and same[-1] is measured


def _place(row: dict) -> tuple[str, int]:
    return row["subject"], row["resolution"]


def _line(name: str, row: dict, columns: Sequence[str], marked: bool = False) -> str:
    cells = []
    for column in columns:
        value = row.get(column)
        scale = 1000 if column == "decode_seconds" else 1
        cell = "–" if value is None else TITLES[column][1].format(value * scale)
        biased = marked and column.startswith(("rfid", "fd_"))
        cells.append(f"{cell} ⚠" if biased and value is not None else cell)
    nfe = "–" if row["nfe"] is None else row["nfe"]
    return f"| {name} | {row['resolution']} | {nfe} | {' | '.join(cells)} |"
