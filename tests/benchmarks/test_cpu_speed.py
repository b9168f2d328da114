"""The timing of steps on a CPU runs, in its smallest form."""

from benchmarks import cpu_speed
from tests.parity.requirements import require

require("diffusers")


def test_times_a_decoder_beside_torch(capsys):
    """Each of the four calls has a row with its wall and CPU seconds."""
    seconds = cpu_speed.report(cpu_speed.decoder_calls("micro", 16), repeats=1)
    assert len(seconds) == 4
    assert all(wall > 0 and cpu > 0 for wall, cpu in seconds.values())
    assert capsys.readouterr().out.count("CPU s") == 4
