"""What the benchmarks of speed share: calls timed in turn, a device's matrix rate, its memory."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp


def seconds_in_turn(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each call over the rounds, in each of which all are called in turn.

    A call waits for its own result, and has been called before.
    """
    return {name: wall for name, (wall, _) in wall_and_cpu_in_turn(calls, rounds).items()}


def wall_and_cpu_in_turn(
    calls: dict[str, Callable[[], None]], rounds: int
) -> dict[str, tuple[float, float]]:
    """As `seconds_in_turn`, by the clock and of the CPU."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in seconds.items()
    }


def matrix_rate(dtype: jnp.dtype, rounds: int = 5) -> tuple[float, int]:
    """FLOP/s of one device in a chain of products of square matrices, and their side.

    The matrices are random: a chip that multiplies zeros draws less power and is faster.
    """
    side, length = (1024, 4) if jax.default_backend() == "cpu" else (8192, 64)
    keys = jax.random.split(jax.random.key(0))
    x, weights = (jax.random.normal(key, (side, side), jnp.float32) for key in keys)
    weights = (weights / side**0.5).astype(dtype)  # the products keep their size

    @jax.jit
    def chain(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, length, lambda _, x: x @ weights, x)

    x = x.astype(dtype)
    jax.block_until_ready(chain(x, weights))
    call = {"chain": lambda: jax.block_until_ready(chain(x, weights))}
    return length * 2 * side**3 / seconds_in_turn(call, rounds)["chain"], side


def peak_bytes(compiled: jax.stages.Compiled) -> tuple[int, str]:
    """The most memory of a device that was in use so far, or where it does not tell, XLA's plan."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "measured"
    plan = compiled.memory_analysis()
    parts = (
        plan.argument_size_in_bytes,
        plan.output_size_in_bytes - plan.alias_size_in_bytes,
        plan.temp_size_in_bytes,
    )
    return sum(parts), "XLA's plan"


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX or PyTorch failed for want of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "OutOfMemoryError"
