"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), in an interval of times."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Guidance:
    """Extrapolates from the prediction without a label through the one with it.

    Attributes:
      scale: 1 is no guidance, and takes one evaluation a step.
      interval: times t that are guided, both ends included (Kynkäänniemi et al. 2024, arXiv
        2404.07724); the others take one evaluation.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def guide(
        self,
        predict: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
        labels: jax.Array,
        no_label: int,
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """`predict` of `labels`, guided: `uncond + scale (cond - uncond)` on all of x's channels.

        Channels behind those, of a learned variance, are the conditional ones.

        Args:
          predict: (x `[B, h, w, C]`, t `[B]`, labels `[B]`) → noise or velocity, `[B, h, w, C or
            more]`; called with 2 B.
          labels: `[B]`.
          no_label: the label that stands for none.
        """

        def plain(x: jax.Array, t: jax.Array) -> jax.Array:
            return predict(x, t, labels)

        def guided(x: jax.Array, t: jax.Array) -> jax.Array:
            # With and without the label side by side: both stay on the device of their image.
            pairs = jnp.stack([labels, jnp.full_like(labels, no_label)], axis=1).reshape(-1)
            both = predict(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2), pairs)
            cond, uncond = both[0::2], both[1::2, ..., : x.shape[-1]]
            noise, rest = jnp.split(cond, [x.shape[-1]], axis=-1)
            scale = jnp.where(self._includes(t), self.scale, 1)[:, None, None, None]
            return jnp.concatenate([uncond + scale * (noise - uncond), rest], axis=-1)

        if self.scale == 1:
            return plain
        if self.interval == (0, 1):
            return guided
        return lambda x, t: jax.lax.cond(jnp.any(self._includes(t)), guided, plain, x, t)

    def _includes(self, t: jax.Array) -> jax.Array:
        low, high = self.interval
        return (low <= t) & (t <= high)
