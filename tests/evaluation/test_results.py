"""The table, and the paper's row beside a run's."""

import json

import pytest

from configs import ablation, common, lite_b, sd_m, sd_m_256, tiny
from epsilon_vae.evaluation import protocols, results
from epsilon_vae.evaluation.paper import paper_rows


def paper(config, *resolutions, data=""):
    return paper_rows("run", config, resolutions=resolutions, data=data)


def test_paper_rows_are_of_the_same_networks_and_resolution():
    first = paper(sd_m.get_config(), 64, 128, 256)
    assert [(row["resolution"], row["rfid"], row["psnr"]) for row in first] == [
        (128, 1.58, None),
        (256, 0.55, None),
    ]
    second_stage = sd_m_256.get_config()
    second_stage.init_from = "runs/sd_m"
    [row] = paper(second_stage, 128, 256)
    assert (row["rfid"], row["psnr"], row["ssim"]) == (0.47, 27.65, 0.841)
    assert paper(tiny.get_config(), 64, 128, 256) == []
    lite = paper(lite_b.get_config(), 128, 256, 512)
    assert [row["rfid"] for row in lite] == [6.24, 3.90, 2.06]
    [row] = paper(lite_b.get_config(), 128)
    assert (row["rfid"], row["nfe"], row["name"]) == (6.24, 3, "paper, lite f 16, B, ImageNet")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.decoder.conditioning", "adagn"),
        ("model.encoder.n_z", 16),
        ("flow.process", "ddpm"),
        ("flow.spacing", "uniform"),
        ("flow.gamma", 1.0),
        ("loss.lpips_weight", 0.0),
        ("loss.adv_weight", 0.0),
        ("loss.matching", "standard"),
        ("loss.gan", "relativistic"),
        ("loss.disc_start_step", 1000),
        ("model.discriminator.name", "residual"),
        ("model.discriminator.context_scale", 0.25),
        ("data.resolution", 64),
        ("init_from", "runs/other"),
    ],
)
def test_another_recipe_has_no_row_of_the_paper(key, value):
    config = sd_m.get_config()
    config.update_from_flattened_dict({key: value})
    assert paper(config, 128, 256) == []


def test_rungs_of_the_ladder_have_their_own_rows():
    expected = {
        "baseline": (28.22, 1000),
        "a": (24.11, 100),
        "b": (23.44, 50),
        "c": (22.04, 50),
        "d": (11.76, 10),
        "e": (8.24, 5),
        "f": (7.08, 5),
        "g": (6.24, 3),
    }
    assert expected.keys() == ablation.LADDER.keys()
    for rung, numbers in expected.items():
        [row] = paper(ablation.get_config(rung), 64, 128)
        assert (row["rfid"], row["nfe"]) == numbers and row["resolution"] == 128


@pytest.mark.parametrize(
    ("config", "resolution", "expected"),
    [
        (common.vae("h"), 128, [("paper, VAE H, ImageNet", 7.12, None)]),
        (common.vae("h"), 256, [("paper, VAE H, ImageNet", 4.29, None)]),
        (common.vae("h"), 64, []),
        (common.vae("h", f=8), 128, []),
        (
            common.sd_vae(),
            256,
            [
                ("paper, SD-VAE f 8, Table 1, ImageNet", 1.21, None),
                ("paper, SD-VAE f 8, Table 2, ImageNet", 0.74, 0.820),
            ],
        ),
        (common.sd_vae(32), 256, []),
        (common.litevae("b"), 128, [("paper, LiteVAE f 8, Table 1, ImageNet", 4.40, None)]),
        (common.litevae("l"), 128, []),
        (common.asym_vae("l"), 256, []),
        (common.vqgan(), 256, [("paper, VQGAN f 16, Table 2, ImageNet", 4.99, 0.629)]),
        (common.llamagen(8), 256, [("paper, LlamaGen f 8, Table 2, ImageNet", 0.59, 0.813)]),
    ],
)
def test_decoders_without_noise_have_their_own_rows(config, resolution, expected):
    rows = paper(config, resolution)
    assert [(row["name"], row["rfid"], row["ssim"]) for row in rows] == expected
    assert {row["nfe"] for row in rows} <= {1}


def test_images_of_coco_have_the_papers_numbers_of_coco():
    """Of 5,000 images, at 256 px, for ε-VAE after the second stage alone."""
    second_stage = sd_m_256.get_config("16")
    second_stage.init_from = "runs/sd_m"
    data = "tfds coco/2017 validation"
    [row] = paper(second_stage, 128, 256, 512, data=data)
    assert (row["rfid"], row["psnr"], row["ssim"]) == (6.12, 22.38, 0.718)
    assert (row["num_images"], row["nfe"]) == (5_000, 3)
    assert row["name"] == "paper, sd f 16, M, COCO"
    [row] = paper(common.sd_vae(), 128, 256, data=data)
    assert (row["rfid"], row["psnr"], row["name"]) == (4.45, 25.41, "paper, SD-VAE f 8, COCO")
    for config in (sd_m.get_config(), common.vqgan(), common.vae("h"), ablation.get_config("e")):
        assert paper(config, 128, 256, data=data) == []


def test_a_run_of_an_earlier_version_has_its_row():
    """Its config has not the keys that came later, whose only value then was the paper's."""
    config = sd_m.get_config()
    with config.unlocked():
        del config.loss.disc_start_step
        del config.model.discriminator.context_scale
        del config.model.discriminator.name
    [row] = paper(config, 128)
    assert row["rfid"] == 1.58


def test_table_has_the_paper_under_the_run_and_marks_what_is_biased():
    rows = [
        {
            "reconstructor": "run|1",
            "resolution": 128,
            "nfe": nfe,
            "num_images": 40,
            "rfid": 12.3456,
            "psnr": 21.345 + nfe,
            "ssim": 0.7,
            "decode_seconds": 0.0123,
            "notes": ["rfid is over 2048 features of 40 images"],
        }
        for nfe in (1, 3)
    ]
    found = {
        "protocol": protocols.parse("paper").stamp(),
        "data": {"source": "photos", "num_images": 40},
        "rows": rows,
        "paper": paper(sd_m.get_config(), 128),
    }
    found["paper"][0]["reconstructor"] = "run|1"
    lines = results.markdown(found).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0].startswith(
        "| Reconstructor | px | NFE | Images | rFID ↓ | PSNR (dB) ↑ | SSIM ↑ | D"
    )
    assert table[2] == r"| run\|1 | 128 | 1 | 40 | 12.35 [1] | 22.34 | 0.7000 | 12.3 |"
    assert "| **24.34** |" in table[3]
    assert (
        table[4]
        == "| *paper, sd f 8, M, ImageNet* | *128* | *3* | *50000* | *1.58* | *–* | *–* | *–* |"
    )
    assert lines[-1] == "- [1] rFID is over 2048 features of 40 images"
    assert "`paper`: 40 images of photos, crop adm, ema weights, seed 0" in lines[0]


def test_table_of_the_terminal_fits():
    """A line for each metric; columns that do not fit follow below. Of rows without quartiles."""
    row = {"resolution": 64, "nfe": 3, "num_images": 40, "psnr": 21.345, "decode_seconds": 0.01}
    found = {
        "protocol": protocols.parse("local").stamp(),
        "data": {"source": "photos", "num_images": 40},
        "rows": [
            row | {"reconstructor": "a", "notes": ["psnr is a guess"]},
            row
            | {"reconstructor": "b\n" * 20, "nfe": None, "notes": []}
            | {"decode_seconds_quartiles": [0.009, 0.012]},
        ],
        "paper": [],
    }
    title, _, *lines = results.text(found, 50).splitlines()
    assert title.startswith("Protocol local: 40 images of photos, crop adm")
    assert lines[:5] == [
        "64 px                    a",
        "NFE                      3",
        "Images                  40",
        "PSNR (dB) ↑      21.34 [1]",
        "Decoding (ms) ↓       10.0",
    ]
    assert lines[6].startswith("64 px            b\\nb\\n") and lines[10].endswith(
        " 10.0 (9.00–12.0)"
    )
    assert lines[11:] == ["", "[1] PSNR (dB) is a guess"]
    assert max(map(len, results.text(found, 100).splitlines()[2:7])) <= 100


def test_results_are_strict_json(tmp_path):
    """Pictures equal to their originals have an infinite PSNR, which JSON has no number for."""
    path = tmp_path / "results.json"
    results.write_json(path, {"rows": [{"psnr": float("inf"), "ssim": 1.0}]})

    def refuse(constant: str):
        raise ValueError(constant)

    [row] = json.loads(path.read_text(), parse_constant=refuse)["rows"]
    assert (float(row["psnr"]), row["ssim"]) == (float("inf"), 1.0)
