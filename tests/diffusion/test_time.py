"""Training times and spacings."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest, norm

from epsilon_vae.diffusion import time


def test_reversed_log_is_equation_12():
    np.testing.assert_allclose(time.reversed_log(3), [1, 0.9130, 0.7657, 0], atol=5e-5)


@pytest.mark.parametrize("spacing", time.SPACINGS.values())
@pytest.mark.parametrize("nfe", [1, 2, 3, 50])
def test_spacings_fall_from_one_to_zero(spacing, nfe):
    times = spacing(nfe)
    assert len(times) == nfe + 1 and times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times) < 0)


def test_logit_normal_times_are_so_distributed():
    t = np.asarray(time.logit_normal(jax.random.key(0), (4000,)))
    assert kstest(np.log(t / (1 - t)), norm.cdf).pvalue > 0.01
    assert kstest(t, "uniform").pvalue < 1e-6


def test_some_times_are_where_decoding_starts():
    t = np.asarray(time.logit_normal_start(jax.random.key(0), (20_000,)))
    assert 0.045 < np.mean(t == 1) < 0.055
    rest = t[t < 1]
    assert kstest(np.log(rest / (1 - rest)), norm.cdf).pvalue > 0.01


def test_whole_steps_are_all_as_likely():
    steps = 10 * np.asarray(time.whole_steps(jax.random.key(0), (4000,), 10))
    values, counts = np.unique(steps.round(4), return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 11))
    assert counts.min() > 320 and counts.max() < 480


def test_uniform_times_are_so_distributed():
    t = np.asarray(time.uniform(jax.random.key(0), (4000,)))
    assert kstest(t, "uniform").pvalue > 0.01
