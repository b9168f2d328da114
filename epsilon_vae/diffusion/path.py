"""Diffusion processes: how images become noise, what the decoder predicts, and one step back.

`RectifiedFlow` is the paper's; `DDPM` is where its ablation starts (Table 5); `Direct` is without
noise, for the decoders that the paper compares with. All speak the same interface, so that the
objective and the sampler do not know which one they hold. All arrays are float32; images are
`[B, H, W, C]`, times `[B]`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np


def per_image(t: jax.Array) -> jax.Array:
    """`[B]` → `[B, 1, 1, 1]`, to multiply images by."""
    return t[:, None, None, None]


@dataclasses.dataclass(frozen=True)
class RectifiedFlow:
    """Straight path from data to noise with input scale gamma (paper, Eq. 5–7, 9; Chen 2023).

    `x_t = (1 - t) gamma x0 + t eps`; the decoder predicts the velocity `v = eps - gamma x0`.

    Attributes:
      gamma: scale of the data term; 0.6 in the paper, 1 switches it off.
      normalization: standard deviation that `network_input` divides by: 'sample' measures it over
        each image (Chen 2023), 'analytic' takes `sqrt(((1 - t) gamma)^2 s^2 + t^2)`, s = 0.5.
    """

    term: ClassVar[str] = "flow"  # the loss's name

    gamma: float = 0.6
    normalization: str = "sample"

    def perturb(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """x_t (Eq. 5)."""
        t = per_image(t)
        return (1 - t) * self.gamma * x0 + t * noise

    def target(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """The velocity dx_t/dt, which the flow loss regresses (Eq. 6)."""
        return noise - self.gamma * x0

    def network_input(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """x_t at unit variance, whatever t."""
        if self.normalization == "sample":
            return x_t / (jnp.std(x_t, axis=(1, 2, 3), keepdims=True) + 1e-6)
        data_std = 0.5
        return x_t / per_image(jnp.sqrt(((1 - t) * self.gamma * data_std) ** 2 + t**2) + 1e-6)

    def denoised(self, x_t: jax.Array, velocity: jax.Array, t: jax.Array) -> jax.Array:
        """One-step estimate of x0 (Eq. 9 with gamma): `(x_t - t v) / gamma`."""
        return (x_t - per_image(t) * velocity) / self.gamma

    def move(self, x_t: jax.Array, velocity: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
        """x_s on the straight line through x_t along the velocity."""
        return x_t + per_image(s - t) * velocity

    def step_back(
        self, x_t: jax.Array, velocity: jax.Array, t: jax.Array, s: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """Euler step from t to s < t; deterministic, `noise` is unused."""
        del noise
        return self.move(x_t, velocity, t, s)

    def final(self, x: jax.Array) -> jax.Array:
        """Image from the sampler's end point at t = 0: the path's data term is gamma x0."""
        return x / self.gamma


@dataclasses.dataclass(frozen=True)
class DDPM:
    """Variance-preserving diffusion with a linear schedule (Ho et al. 2020), noise prediction.

    `x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps`, beta from 1e-4 to 0.02 over 1000 steps. A time
    in [0, 1] means the discrete step `ceil(1000 t)`; t = 0 is data.
    """

    term: ClassVar[str] = "flow"

    num_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def alpha_bar(self, t: jax.Array) -> jax.Array:
        """Product of (1 - beta) up to time t, `[B]`."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_steps, dtype=np.float64)
        table = np.concatenate([[1.0], np.cumprod(1 - betas)]).astype(np.float32)
        # The small shift keeps t = k / 1000, rounded up in float32, at step k.
        step = jnp.ceil(t * self.num_steps - 1e-3).astype(jnp.int32)
        return jnp.asarray(table)[step]

    def perturb(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """x_t (Ho et al., Eq. 4)."""
        abar = per_image(self.alpha_bar(t))
        return jnp.sqrt(abar) * x0 + jnp.sqrt(1 - abar) * noise

    def target(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """The noise (Ho et al., Eq. 14)."""
        del x0
        return noise

    def network_input(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """x_t itself: the path is variance preserving."""
        del t
        return x_t

    def denoised(self, x_t: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """x0 estimate (Ho et al., Eq. 15), clipped to the image range.

        At t near 1 `1 / sqrt(abar)` is 158, so an unclipped estimate is useless as an image.
        """
        abar = per_image(self.alpha_bar(t))
        x0 = (x_t - jnp.sqrt(1 - abar) * noise) / jnp.sqrt(abar)
        return jnp.clip(x0, -1, 1)

    def move(self, x_t: jax.Array, noise: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
        """x_s with the same x0 estimate and noise: the deterministic step of DDIM."""
        return self.perturb(self.denoised(x_t, noise, t), noise, s)

    def step_back(
        self,
        x_t: jax.Array,
        prediction: jax.Array,
        t: jax.Array,
        s: jax.Array,
        noise: jax.Array,
    ) -> jax.Array:
        """A draw from q(x_s | x_t, x0 estimate) (Ho et al., Eq. 6 and 7), for any s < t.

        With s = t - 1/1000 this is DDPM's ancestral step; larger steps are its respaced form.
        """
        abar_t, abar_s = per_image(self.alpha_bar(t)), per_image(self.alpha_bar(s))
        alpha = abar_t / abar_s
        x0 = self.denoised(x_t, prediction, t)
        mean = (jnp.sqrt(abar_s) * (1 - alpha) * x0 + jnp.sqrt(alpha) * (1 - abar_s) * x_t) / (
            1 - abar_t
        )
        variance = (1 - abar_s) * (1 - alpha) / (1 - abar_t)
        return mean + jnp.sqrt(variance) * noise

    def final(self, x: jax.Array) -> jax.Array:
        """The end point is the image."""
        return x


@dataclasses.dataclass(frozen=True)
class Direct:
    """No diffusion: the decoder gives the image itself, in one evaluation, from the latents alone.

    As in every autoencoder that the paper compares with. x_t is nothing: 0.
    """

    term: ClassVar[str] = "reconstruction"

    def perturb(self, x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
        """Zeros."""
        del noise, t
        return jnp.zeros_like(x0)

    def target(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """The image."""
        del noise
        return x0

    def network_input(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        """x_t, which the decoder does not look at."""
        del t
        return x_t

    def denoised(self, x_t: jax.Array, image: jax.Array, t: jax.Array) -> jax.Array:
        """The image that was predicted."""
        del x_t, t
        return image

    def move(self, x_t: jax.Array, image: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
        """The image, wherever one goes."""
        del x_t, t, s
        return image

    def step_back(
        self, x_t: jax.Array, image: jax.Array, t: jax.Array, s: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """The image: one step is all."""
        del x_t, t, s, noise
        return image

    def final(self, x: jax.Array) -> jax.Array:
        """The end point is the image."""
        return x


Process = RectifiedFlow | DDPM | Direct
