"""The default protocol from pictures to numbers; Inception's weights are random here."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.data.sources import Photos
from epsilon_vae.evaluation import evaluation, generated, protocols
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import PictureFolder
from epsilon_vae.parallel.mesh import make_mesh
from epsilon_vae.pretrained import registry
from tests import golden_features
from tests.helpers import held_out_images, training_images

SIZE = 32
PAPER = protocols.parse("paper")
NAMES = "astronaut", "chelsea", "coffee"


@pytest.fixture(scope="module", autouse=True)
def metrics():
    """Networks, compiled once, that the protocol's features and the metrics are taken of."""
    _, shapes = golden_features.load_golden("inception")
    params = golden_features.parameters("inception", shapes)
    load = registry.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", lambda name: params if name == "inception" else load(name))
        shared = ReconstructionMetrics(evaluation.LPIPS_NETS, ("inception",), make_mesh())

        def make(nets, features, mesh, **decoded):
            assert features == ("inception",)
            return shared

        patch.setattr(evaluation, "ReconstructionMetrics", make)
        patch.setattr(generated, "ReconstructionMetrics", make)
        yield shared


def write_folder(folder, images, names):
    folder.mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    return str(folder)


def test_pictures_equal_to_their_originals_have_an_rfid_of_0(tmp_path, monkeypatch):
    originals, output = held_out_images(SIZE), tmp_path / "out"
    same = PictureFolder(write_folder(tmp_path / "same", originals, NAMES))
    darker = PictureFolder(write_folder(tmp_path / "darker", originals // 2, NAMES))
    written = []
    monkeypatch.setattr(
        evaluation.hosts, "barrier", lambda name: written.append((output / "report.html").exists())
    )
    data = evaluation.Data(Photos("val"), "photos")
    evaluation.evaluate(
        [same, darker],
        data,
        resolutions=(SIZE,),
        steps=(1, 3),
        protocol=PAPER,
        output=str(output),
        mesh=make_mesh(),
        save_images=True,
    )
    assert written == [True]  # the others wait until process 0 has done so
    found = json.loads((output / "results.json").read_text())
    one, other = found["rows"]
    assert one["rfid"] == pytest.approx(0, abs=1e-6 * other["rfid"])
    assert one["psnr"] == "Infinity" and one["ssim"] == pytest.approx(1)
    assert one["lpips_vgg16"] == pytest.approx(0, abs=1e-9)
    assert 0 < other["ssim"] < 1 and other["lpips_alexnet"] > 0
    assert "rfid is over 2048 features of 3 images" in one["notes"][0]
    stamp = found["protocol"]
    assert "2048" in stamp["rfid"] and {"decode_seconds", "noise"} <= stamp.keys()
    assert {"scipy", "pillow"} <= found["versions"].keys()
    with (output / f"per_image_{SIZE}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["0", "1", "2"] * 2
    saved = sorted((output / "images" / f"{SIZE}" / "same").iterdir())
    assert [file.name for file in saved] == [f"00000{i}-{name}.png" for i, name in enumerate(NAMES)]


def test_generated_images_equal_to_the_reference(tmp_path):
    images = ((training_images(12, SIZE) + 1) * 127.5).astype(np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=images)
    folder = write_folder(tmp_path / "samples", images, (f"{i:02d}" for i in range(12)))
    output = tmp_path / "out"
    generated.evaluate_samples(
        folder, str(tmp_path / "real.npz"), protocol=PAPER, output=str(output), mesh=make_mesh()
    )
    [row] = json.loads((output / "results.json").read_text())["rows"]
    assert row["fid"] == pytest.approx(0, abs=1e-3)
    assert (row["precision"], row["recall"]) == (1, 1)
    assert row["inception_score"] >= 1 and row["inception_score_deviation"] >= 0
    assert "fid is over 2048 features of 12 images" in row["notes"][0]
    assert "| FID ↓ |" in (output / "results.md").read_text()
