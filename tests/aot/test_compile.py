"""The command, as a process: its table, its JSON, its exit codes."""

import json

import pytest

from tests.processes import finish, start_alone

RECONSTRUCT = ("--config=configs/tiny.py", "--what=reconstruct")


def test_a_reconstruction_that_fits(run_module, tmp_path):
    path = tmp_path / "report.json"
    out, err = finish(
        run_module(
            "epsilon_vae.compile",
            *RECONSTRUCT,
            "--topology=v5e:2x2",
            "--batch=8",
            "--resolution=32",
            "--config.flow.nfe=2",
            f"--json={path}",
        )
    )
    assert err == "", "libtpu looks for a TPU, in vain and loudly"
    assert out.startswith(
        "Compiling the reconstruction of 8 images, 32 x 32 px, NFE 2, for v5e:2x2"
    )
    assert "parameters, decoder" in out and "Fits: " in out
    report = json.loads(path.read_text())
    assert report["fits"] and report["chips"] == 4
    assert report["mesh"] == {"data": 4, "fsdp": 1, "space": 1}
    assert report["parameters"]["encoder"] == 225576
    memory = report["hbm_bytes_a_chip"]
    parts = ("arguments", "outputs_beyond_arguments", "temporaries", "program")
    assert memory["total"] == sum(memory[part] for part in parts)
    assert memory["left"] == memory["usable"] - memory["total"] > 0
    # Two images' activations take more than the weights, which are in float32 and whole.
    weights = 4 * sum(report["parameters"].values())
    assert memory["temporaries"] > memory["arguments"] > weights
    # Two images a chip, encoded together, then decoded, in two steps.
    assert list(report["loops"].values()) == [2]
    # Parameters are on every chip, each works on its own images: the results alone are sent.
    (sent,) = report["collectives"]
    assert (sent["kind"], sent["bytes"]) == ("all-gather", 8 * 32 * 32 * 3 * 4)
    # The compiler may make a convolution of few channels larger, to fill the matrix unit.
    compiled = 4 * report["compiled_flops_a_chip"]
    assert 0.98 < compiled / report["flops"]["executed"] < 1.6
    seconds = report["seconds"]
    assert seconds["bound"] == max(seconds[k] for k in ("compute", "memory", "interconnect"))
    at_peak = report["flops"]["model"] / (4 * 197e12)
    assert report["model_flops_share"] == pytest.approx(at_peak / seconds["bound"])


def test_a_train_step_with_sharded_state(run_module, tmp_path):
    path = tmp_path / "report.json"
    flags = (
        "--config=tests/micro.py",
        "--config.mesh.fsdp=4",
        "--config.model.remat=full",
        "--topology=v5p:2x2x1",
        "--batch=8",
        f"--json={path}",
    )
    process = run_module("epsilon_vae.compile", *flags)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    report = json.loads(path.read_text())
    assert report["fits"] and report["hbm_bytes_a_chip"]["usable"] == int(95.74 * 2**30)
    # A forward pass again for the backward one.
    assert 1.05 < report["flops"]["executed"] / report["flops"]["model"] < 1.5
    kinds = {c["kind"] for c in report["collectives"]}
    assert kinds == {"all-gather", "reduce-scatter", "all-reduce"}
    assert not report["loops"]


def test_what_does_not_fit_is_told_by_how_much_and_what_would_help(run_module, tmp_path):
    path = tmp_path / "report.json"
    process = run_module(
        "epsilon_vae.compile",
        *RECONSTRUCT,
        "--topology=v5e:1x1",
        "--resolution=4096",
        f"--json={path}",
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    report = json.loads(path.read_text())
    memory = report["hbm_bytes_a_chip"]
    assert not report["fits"] and memory["total"] > memory["usable"] == 15.75 * 2**30
    assert f"Does not fit: {-memory['left'] / 2**30:.2f} GiB a chip too much." in out
    assert "2 times the chips at the same batch" in out
    assert "seconds" not in report


REFUSALS = [
    (("--topology=v5e:3x3",), "--topology=v5e:3x3: no such shape"),
    (("--topology=v9:2x2",), "--topology=v9:2x2: expected one of v5e, v5p, v6e with a shape, as"),
    (("--topology=v5e:2x2", "--batch=3"), "config.batch_size = 3: must divide"),
    (("--topology=v5e:2x2", "--what=reconstruct", "--resolution=12x"), "--resolution=12x: expect"),
    (("--topology=v5e:2x2", "--resolution=64"), "--resolution=64: is of --what=reconstruct"),
    (("--topology=v5e:2x2", "--json=no/where.json"), "--json=no/where.json: no such folder"),
    (("--topology=v5e:2x2", "--json=tests"), "--json=tests: is a folder"),
    (
        ("--topology=v5e:2x2", "--what=reconstruct", "--config.model.encoder.name=vq"),
        "config.model.encoder.name = 'vq': expected",
    ),
    (("--topology=v5e:2x2", "--config.mesh.fsdp=3"), "config.mesh (data = -1, fsdp = 3"),
    (("--topology=v5e:2x2", "--config.optim.rate=3"), "config.optim.rate = '3': there is no such"),
    ((), "--topology is missing"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSALS)
def test_refusal_is_one_line_and_code_2(run_module, arguments, words):
    process = run_module("epsilon_vae.compile", "--config=configs/tiny.py", *arguments)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("epsilon_vae: ") and words in lines[0]


def test_without_libtpu_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)  # which a loaded libtpu sets
    (tmp_path / "libtpu.py").write_text("raise ImportError")
    process = start_alone(
        "epsilon_vae.compile",
        "--config=configs/tiny.py",
        "--topology=v5e:2x2",
        PYTHONPATH=str(tmp_path),
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "pip install -e '.[tpu]'" in err and len(err.splitlines()) == 1
