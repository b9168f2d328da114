"""Latents by the class-conditional network: what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np

from epsilon_vae.diffusion.guidance import Guidance
from epsilon_vae.diffusion.path import DDPM
from epsilon_vae.diffusion.time import respaced
from epsilon_vae.models.dit import ClassDiT, DiT
from epsilon_vae.models.latent_diffusion import LatentDiffusion
from tests import golden_params


def test_latents_depend_on_seed_index_label_and_guidance_alone():
    """Not on the batch; with guidance in an interval, a learned variance and its noise."""
    dit = DiT(depth=1, width=16, heads=2, patch=2, out_channels=4)
    process = DDPM(is_clipped=False, variance="learned")
    model = LatentDiffusion(ClassDiT(dit, num_classes=3), process)
    inputs = {"x": jnp.zeros((1, 4, 4, 2)), "t": jnp.zeros(1), "labels": jnp.array([0])}
    params = golden_params.random_params(model.network, inputs)

    def run(seed: int, images: dict[int, int], scale: float = 3.0):
        indices, labels = np.array(list(images)), np.array(list(images.values()))
        guidance = Guidance(scale, (0.3, 0.8))
        return jax.jit(model.generate, static_argnames=("shape", "guidance"))(
            params,
            seed,
            indices=indices,
            labels=labels,
            shape=(4, 4, 2),
            times=respaced(6),
            guidance=guidance,
        )

    latents = run(0, {7: 1, 3: 0, 11: 2})
    assert latents.shape == (3, 4, 4, 2) and np.isfinite(latents).all()
    scale = np.abs(latents).max()
    np.testing.assert_allclose(run(0, {3: 0}), latents[1:2], atol=1e-5 * scale)
    np.testing.assert_allclose(run(0, {11: 2, 3: 0, 7: 1}), latents[::-1], atol=1e-5 * scale)
    for other in (run(1, {3: 0}), run(0, {4: 0}), run(0, {3: 1}), run(0, {3: 0}, scale=1.0)):
        assert np.abs(other - latents[1:2]).max() > 1e-3 * scale
