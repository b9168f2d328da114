"""The benchmarks of speed against PyTorch in their smallest form: that they run, not how fast."""

import re

import pytest

from tests import micro
from tests.parity.requirements import require

require("diffusers")
import torch  # noqa: E402

from benchmarks import decode_speed, torch_networks, train_speed  # noqa: E402
from tests.benchmarks.test_decode_speed import micro_decoders  # noqa: E402


@pytest.fixture
def no_compiler():
    """A machine without a C++ compiler, which torch.compile needs on a CPU."""
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent")}):
        yield


def test_decoder_forward_and_backward(no_compiler, capsys):
    """Without a compiler PyTorch runs eager, and the words say so."""
    config = micro.get_config()
    train_speed.flags.FLAGS(["", "--rounds=1"])
    train_speed.compare(config, train_speed.counterpart(config), 2)
    out = capsys.readouterr().out
    assert "torch.compile does not work here, so PyTorch is timed eager" in out
    ours, theirs = (
        float(re.search(rf"^  {name} +([\d.]+) ms", out, re.M)[1])
        for name in ("ours", "PyTorch, eager")
    )
    ratio = float(re.search(r"images a second: ([\d.]+)", out)[1])
    assert ratio == pytest.approx(theirs / ours, rel=0.02, abs=0.01)


def test_gradients_are_taken_anew_at_each_call(no_compiler):
    """The call that is timed computes the gradients of all weights, and does not add them up."""
    networks = train_speed.models.build_networks(micro.get_config())
    made = []
    build = torch_networks.build_unet

    def keep(*arguments):
        made.append(build(*arguments))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_networks, "build_unet", keep)
        _, call = torch_networks.training_call(
            networks.decoder, 11, batch_size=1, resolution=32, bfloat16=False
        )
    call()
    first = [parameter.grad.clone() for parameter in made[0].parameters()]
    call()
    again = [parameter.grad for parameter in made[0].parameters()]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other)


def test_decoders(no_compiler, capsys):
    """SD-VAE's kind is timed in PyTorch too, and ratios are to that."""
    decode_speed.report(micro_decoders(), 32, batch_sizes=[1, 2], steps=[1], rounds=1)
    rows = {
        line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()[-3:]
    }
    assert [*rows] == ["micro, NFE 1", "sd", "sd, PyTorch eager"]
    theirs = rows["sd, PyTorch eager"]
    for one, two, best, _, at_one, at_best in rows.values():
        assert float(best) == max(float(one), float(two))
        assert float(at_one) == pytest.approx(float(one) / float(theirs[0]), rel=0.01)
        assert float(at_best) == pytest.approx(float(best) / float(theirs[2]), rel=0.01)
