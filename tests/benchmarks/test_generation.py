"""What the benchmark counts of one evaluation is what the sampler and the decoder do in a loop."""

import jax
import numpy as np
import pytest

from benchmarks.generation import System
from epsilon_vae.training.flops import jaxpr_flops


def test_flops_follow_the_tokens_and_the_decoder_does_not():
    """Four times the tokens cost somewhat more than four times: attention is quadratic."""
    larger, system = System("sd_m:8", "s"), System("sd_m:16", "s")
    assert larger.shape == (32, 32, 4) and system.shape == (16, 16, 4)
    (dit8, decoder8), (dit16, decoder16) = larger.flops(), system.flops()
    assert 4 < dit8 / dit16 < 5 and decoder8 == decoder16
    labels, latents = np.zeros(1, np.int32), np.zeros((1, *system.shape), np.float32)
    sample = jax.make_jaxpr(lambda params, labels: system.sample(params, labels, steps=3))
    whole = jaxpr_flops(sample(system.dit_params, labels).jaxpr)
    assert whole == pytest.approx(3 * dit16, rel=0.05)
    whole = jaxpr_flops(jax.make_jaxpr(system.decode)(system.decoder_params, latents).jaxpr)
    assert whole == pytest.approx(3 * decoder16, rel=0.05)
