"""The train step: a pure function of the state, the frozen inputs and a batch.

Randomness comes from `fold_in(seed, step)` alone, so that any step can be replayed. One forward
pass serves both updates: the discriminator learns on the x0_hat that the autoencoder's loss saw.
A latent diffusion model is trained by the same step: its objective has no discriminator.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from epsilon_vae.losses.adversarial import Denoising, paired_accuracy
from epsilon_vae.parallel.sharding import gather_parameters
from epsilon_vae.training.state import TrainState


class Objective(Protocol):
    """The loss to minimize: an autoencoder's losses, or a latent diffusion model's.

    Attributes:
      name: 'autoencoder' or 'generator', in the names of metrics.
    """

    name: str

    def init(self, key: jax.Array) -> tuple[dict, dict]:
        """Initial parameters of the networks, and of a discriminator, which may be empty."""

    def trained(self, params: dict) -> dict:
        """The networks of `params` that have gradients, moments and a moving average."""

    def batch_shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of what a batch holds, by name."""

    def draw(self, key: jax.Array, batch_size: int) -> dict[str, jax.Array]:
        """All randomness of one step, `[B, …]` by name; an image's depends on its place alone."""

    def probes(self, batch_size: int) -> dict[str, jax.Array]:
        """Zeros at x0_hat, `[B, H, W, 3]` by name of a term, whose gradients tell how it pulls."""

    def loss(
        self,
        params: dict,
        discriminator: dict,
        *,
        frozen: dict,
        batch: dict[str, jax.Array],
        draw: dict[str, jax.Array],
        step: jax.Array,
        probes: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The networks' loss; what the discriminator's is computed from; metrics.

        Args:
          params: of the networks.
          discriminator: its parameters.
          frozen: what no step changes.
          batch: as `batch_shapes`.
          draw: this batch's part of `self.draw`.
          step: of training.
          probes: as `self.probes`; None without.
        """

    def discriminator_loss(
        self, discriminator: dict, denoising: Any, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The discriminator's loss on that forward pass, and metrics."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """`(state, frozen, batch) -> (state, metrics)`; a batch is what the objective takes.

    `frozen` holds what no step changes: `seed`, uint32, of all noise and times, and `lpips`, the
    weights of LPIPS, where the objective has it.

    Attributes:
      objective: the losses.
      optimizer, discriminator_optimizer: of what is trained of `state.params`, and of
        `state.discriminator`.
      ema_decay: of `state.ema`, 0.999 in the paper; less at first, (1 + step) / (10 + step), so
        that the start's random weights do not stay in the average for thousands of steps.
      accumulate: the batch is worked through in so many parts, whose gradients are averaged.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    discriminator_optimizer: optax.GradientTransformation
    ema_decay: float
    accumulate: int = 1

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        params, discriminator = self.objective.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            # A copy: buffers that two leaves share cannot be donated.
            ema=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(self.objective.trained(params)),
            discriminator=discriminator,
            discriminator_opt_state=self.discriminator_optimizer.init(discriminator),
        )

    def __call__(
        self, state: TrainState, frozen: dict, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One update of the networks and one of the discriminator, both from the old state.

        The metrics are scalars: loss terms before weighting, gradient norms before clipping, the
        discriminator's paired accuracy, and 'grad_x0/…', how strongly each weighted term pulls at
        x0_hat: the norm of the gradient of an image's own loss, a mean over the batch's images.
        """
        key = jax.random.fold_in(jax.random.key(frozen["seed"]), state.step)
        draw = self.objective.draw(key, len(jax.tree.leaves(batch)[0]))
        grads, discriminator_grads, metrics = self._mean_gradients(state, frozen, batch, draw)
        metrics = paired_accuracy(metrics)
        metrics[f"grad_norm/{self.objective.name}"] = optax.global_norm(grads)
        if state.discriminator:
            metrics["grad_norm/discriminator"] = optax.global_norm(discriminator_grads)

        trained = self.objective.trained(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        updates, discriminator_opt_state = self.discriminator_optimizer.update(
            discriminator_grads, state.discriminator_opt_state, state.discriminator
        )
        discriminator = optax.apply_updates(state.discriminator, updates)
        # A frozen encoder is in neither tree: averaged with itself, it would drift by rounding.
        ema = self.objective.trained(state.ema)
        decay = jnp.minimum(self.ema_decay, (1 + state.step) / (10 + state.step))
        ema = optax.incremental_update(trained, ema, 1 - decay)
        state = TrainState(
            step=state.step + 1,
            params=state.params | trained,
            ema=state.ema | ema,
            opt_state=opt_state,
            discriminator=discriminator,
            discriminator_opt_state=discriminator_opt_state,
        )
        return state, metrics

    def _gradients(
        self, state: TrainState, frozen: dict, batch: dict, draw: dict
    ) -> tuple[dict, dict, dict[str, jax.Array]]:
        """Gradients of the networks and of the discriminator, and metrics, of one batch."""
        objective, batch_size = self.objective, len(jax.tree.leaves(batch)[0])
        gather = functools.partial(gather_parameters, dtype=objective.dtype)
        # The discriminator computes in float32, and its kernels stay in it.
        gather_discriminator = functools.partial(gather_parameters, dtype=jnp.float32)

        def networks_loss(trained: dict, probes: dict):
            networks = gather(state.params | trained), gather_discriminator(state.discriminator)
            return objective.loss(
                *networks, frozen=frozen, batch=batch, draw=draw, step=state.step, probes=probes
            )

        def discriminator_loss(discriminator: dict, denoising: Denoising):
            params = gather_discriminator(discriminator)
            return objective.discriminator_loss(params, denoising, state.step)

        value_and_grad = functools.partial(jax.value_and_grad, has_aux=True)
        (_, (denoising, metrics)), (grads, at_x0) = value_and_grad(networks_loss, argnums=(0, 1))(
            objective.trained(state.params), objective.probes(batch_size)
        )
        for name, gradient in at_x0.items():
            # The loss is a mean over the batch: times its size, a gradient is the image's own.
            norms = jnp.sqrt(jnp.sum((batch_size * gradient) ** 2, axis=(1, 2, 3)))
            metrics[f"grad_x0/{name}"] = jnp.mean(norms)
        (_, discriminator_metrics), discriminator_grads = value_and_grad(discriminator_loss)(
            state.discriminator, denoising
        )
        return grads, discriminator_grads, metrics | discriminator_metrics

    def _mean_gradients(
        self, state: TrainState, frozen: dict, batch: dict, draw: dict
    ) -> tuple[dict, dict, dict[str, jax.Array]]:
        """`_gradients`, averaged over the parts of the batch."""
        if self.accumulate == 1:
            return self._gradients(state, frozen, batch, draw)

        def split(x: jax.Array) -> jax.Array:
            # Part k takes images k, k + parts, …: each device keeps its own images.
            parts = x.reshape(x.shape[0] // self.accumulate, self.accumulate, *x.shape[1:])
            return jnp.swapaxes(parts, 0, 1)

        def add(total, part):
            return jax.tree.map(jnp.add, total, self._gradients(state, frozen, *part)), None

        parts = jax.tree.map(split, (batch, draw))
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(self._gradients, state, frozen, *first),
        )
        total, _ = jax.lax.scan(add, zeros, parts)
        return jax.tree.map(lambda x: x / self.accumulate, total)
