"""The timing of steps on a CPU runs, in its smallest form."""

import numpy as np

from benchmarks import cpu_speed
from tests.parity.requirements import require

require("diffusers")


def test_times_a_decoder_beside_torch(capsys):
    """Each of the four calls has a row with its wall and CPU seconds."""
    seconds = cpu_speed.report(cpu_speed.decoder_calls("micro", 16), repeats=1)
    assert len(seconds) == 4
    assert all(wall > 0 and cpu > 0 for wall, cpu in seconds.values())
    assert capsys.readouterr().out.count("CPU s") == 4


def test_convolutions_that_are_compared_are_the_same(capsys):
    calls = cpu_speed.convolution_calls(6, 3, 5)
    for name in ("forward", "by x", "by kernel"):
        ours, default = (np.asarray(calls[f"{name}, {how}"]()) for how in ("ours", "default"))
        order = (2, 3, 1, 0) if name == "by kernel" else (0, 2, 3, 1)
        theirs = calls[f"{name}, PyTorch"]().permute(order).numpy()
        np.testing.assert_allclose(ours, default, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    cpu_speed.report_convolutions([(6, 3, 5)], repeats=1)
    assert capsys.readouterr().out.count("6, 3, 5") == 3
