"""The benchmark of decoders in its smallest form, without PyTorch; tests/parity has it with."""

import re
import sys

import benchmarks
from benchmarks import decode_speed
from configs import common
from tests import micro


def micro_decoders() -> dict[str, decode_speed.Decoder]:
    """One that denoises and one of SD-VAE's kind, at 32 px and f 4."""
    config = common.sd_vae()
    config.dtype = "float32"
    config.data.resolution = 32
    config.model.encoder.name = config.model.decoder.size = "micro"
    config.model.encoder.f = 4
    configs = {"micro": micro.get_config(), "sd": config}
    return {name: decode_speed.Decoder(config) for name, config in configs.items()}


def test_rates_of_decoders(capsys, monkeypatch):
    """At each batch size; where PyTorch is missing it says so, and ours are timed."""
    monkeypatch.delattr(benchmarks, "torch_networks", raising=False)
    monkeypatch.setitem(sys.modules, "benchmarks.torch_networks", None)
    decode_speed.report(micro_decoders(), 32, batch_sizes=[1, 2], steps=[1, 3], rounds=1)
    out = capsys.readouterr().out
    assert "not against PyTorch" in out
    rows = re.findall(
        r"^(\w+(?:, NFE \d)?) +([\d.e+]+) +([\d.e+]+) +([\d.e+]+) +(\d) +$", out, re.M
    )
    assert [row[0] for row in rows] == ["micro, NFE 1", "micro, NFE 3", "sd"]
    for _, *rates, best, size in rows:
        assert float(best) == max(map(float, rates)) == float(rates[int(size) - 1]) > 0
