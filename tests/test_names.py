"""File names of any bytes: through every writer, and as spreadsheets and Markdown take them."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from epsilon_vae.data.latents import Latents
from epsilon_vae.evaluation import results
from epsilon_vae.names import csv_cell, encode, markdown, printable
from tests.processes import finish

# A formula, a command, a tag, a new line, Markdown, bytes that are no UTF-8.
ODD = b"=cmd|' <i>\n`x`*_\xff"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a b/ü.png", "a b/ü.png"),
        (os.fsdecode(b"a\xffb"), r"a\xffb"),
        ("a\nb\tc\x1b[31m", r"a\nb\tc\x1b[31m"),
        ("right\u202eleft", r"right\u202eleft"),
        ("a\ud800b", r"a\ud800b"),
    ],
)
def test_printable(name, expected):
    assert printable(name) == expected == printable(expected)


def test_cells_and_files():
    assert csv_cell("=1+2") == "'=1+2" and csv_cell("\t=1") == r"\t=1" and csv_cell("a=1") == "a=1"
    assert markdown("a|b<i>`*[x](y)&amp;\n") == r"a\|b\<i\>\`\*\[x\](y)\&amp;\\n"
    assert json.loads(encode(json.dumps("ü\udcff", ensure_ascii=False))) == "ü\udcff"
    assert results.table_line(["a", markdown("b|c")]) == r"| a | b\|c |"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with an odd name of a picture with one, and of one as long as may be."""
    folder = os.fsencode(tmp_path_factory.mktemp("pictures")) + b"/" + ODD
    os.mkdir(folder)
    for name in (ODD + b".png", b"-" + 250 * b"y" + b".png"):
        Image.new("RGB", (32, 32), (40, 90, 160)).save(os.fsdecode(folder + b"/" + name))
    return os.fsdecode(folder)


def test_evaluate_writes_names_of_any_bytes(run_module, finished_run, pictures, tmp_path):
    """Of images, of reconstructors and of the folder that is written."""
    output = os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD)
    flags = f"--data={pictures}", "--protocol=local,features=alexnet", "--resolutions=32"
    out, _ = finish(
        run_module(
            "epsilon_vae.evaluate",
            "--compare",
            str(finished_run),
            pictures,
            *flags,
            f"--output={output}",
            "--steps=1",
            "--save_images",
        )
    )
    with open(f"{output}/per_image_32.csv", newline="", encoding="utf-8") as file:
        text = file.read()
    rows = list(csv.DictReader(text.splitlines()))
    assert text.count("\n") == 1 + 4 and len(rows) == 4
    assert {row["name"] for row in rows} == {
        csv_cell(f"{pictures}/{os.fsdecode(name)}.png"[-300:]) for name in names()
    }
    assert rows[-1]["reconstructor"] == "'" + printable(os.fsdecode(ODD))
    found = json.loads(Path(output, "results.json").read_text(encoding="utf-8"))
    assert found["data"]["source"] == pictures == found["reconstructors"][1]["path"]
    table = Path(output, "results.md").read_text(encoding="utf-8")
    assert r"| =cmd\|' \<i\>\\n\`x\`\*_\\xff | 32 " in table
    page = Path(output, "report.html").read_text(encoding="utf-8")
    assert "<i>" not in page and "&lt;i&gt;" in page
    assert out.splitlines()[-1] == printable(f"{output}/report.html")
    assert len(os.listdir(f"{output}/images/32/originals")) == 2


def names() -> tuple[bytes, bytes]:
    return ODD, b"-" + 250 * b"y"


def test_reconstruct_and_encode_take_names_of_any_bytes(
    run_module, finished_run, pictures, tmp_path
):
    run = f"--workdir={finished_run}"
    output = os.fsdecode(os.fsencode(tmp_path) + b"/" + ODD)
    process = run_module(
        "epsilon_vae.reconstruct", run, pictures, f"--output={output}", "--steps=1"
    )
    encode = "epsilon_vae.encode", run, f"--data={pictures}"
    encoding = run_module(*encode, f"--output={tmp_path}/latents")
    refused = run_module(*encode, f"--output={output}2")
    out, _ = finish(process)
    assert out.count("\n") == 3 and printable(f"{pictures}/{os.fsdecode(ODD)}.png -> ") in out
    assert sorted(os.listdir(os.fsencode(output))) == sorted(name + b".png" for name in names())
    out, _ = finish(encoding)
    assert out.startswith(f"{tmp_path}/latents: done: 2 images")
    latents = Latents(f"{tmp_path}/latents")
    files = [f"{pictures}/{os.fsdecode(name)}.png"[-300:] for name in names()]
    assert sorted(record.name for record in latents) == sorted(files)
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 2 and "ArrayRecord takes names in UTF-8 alone" in err


def test_a_name_in_an_error_is_one_line(run_module, finished_run, pictures, tmp_path):
    missing = f"{pictures}\n{os.fsdecode(ODD)}"
    process = run_module(
        "epsilon_vae.reconstruct", f"--workdir={finished_run}", missing, f"--output={tmp_path}"
    )
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == f"epsilon_vae: {printable(missing)}: no such file or folder\n"
