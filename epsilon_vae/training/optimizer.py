"""The optimizer of each network: Adam at a constant rate after a linear warm-up (paper, C.2)."""

import optax


def learning_rate(lr: float, warmup_steps: int) -> optax.Schedule:
    """`lr * min(1, (step + 1) / warmup_steps)`: the first update already moves."""
    if warmup_steps <= 1:
        return optax.constant_schedule(lr)
    return optax.linear_schedule(lr / warmup_steps, lr, warmup_steps - 1)


def adam(
    lr: float, warmup_steps: int, *, b1: float, b2: float, clip_norm: float = 0.0
) -> optax.GradientTransformation:
    """Adam with a linear warm-up to a constant rate.

    Args:
      lr: after the warm-up.
      warmup_steps: over which the rate rises linearly.
      b1, b2: of the moments.
      clip_norm: to which gradients are clipped; 0 leaves them.
    """
    optimizer = optax.adam(learning_rate(lr, warmup_steps), b1=b1, b2=b2)
    if clip_norm == 0:
        return optimizer
    clip = optax.clip_by_global_norm(clip_norm)

    def update(gradients, state, params=None):
        clipped, _ = clip.update(gradients, optax.EmptyState())
        return optimizer.update(clipped, state, params)

    # Not `optax.chain`, whose state has another structure: a run may resume with another clip_norm.
    return optax.GradientTransformation(optimizer.init, update)
