"""No forward pass is done twice: a step costs at most 1.05 times the sum of its parts."""

import pytest

from benchmarks.step_flops import report


@pytest.mark.parametrize("name", ["tiny", "sd_m"])
def test_step_costs_its_parts(name):
    assert 0.9 < report(name, compiled=False) <= 1.05
