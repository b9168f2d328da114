"""Where two cores spend the time of a step, and of ADM-B's decoder beside diffusers' in PyTorch.

`python -m benchmarks.cpu_speed` times, in turn and within one process, `sd_b`'s decoder and
diffusers' `UNet2DModel` of as many parameters (64 px, batch 4, float32, eager), forward, and
forward and backward; then single convolutions; then the parts of a step of `tiny`. It prints wall
and CPU seconds: other work on the machine lengthens the first more than the second. PyTorch's
threads leave the cores to JAX with OMP_WAIT_POLICY=passive.
"""

import argparse
import functools
import importlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.step_flops import parts
from epsilon_vae.models.unet import UNET_SIZES, UNet
from epsilon_vae.parallel.mesh import local_mesh
from epsilon_vae.parallel.programs import compiler_options
from epsilon_vae.training.build import build_train_step, frozen_inputs

BATCH_SIZE = 4
# Sides, inputs and outputs of 3 x 3 convolutions of `sd_b`'s decoder at 64 px.
CONVOLUTIONS = ((64, 64, 64), (64, 128, 64), (32, 64, 64), (32, 128, 128), (16, 256, 128))


def time_in_turn(calls: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """Name → median wall and CPU seconds of a call, after one call that is not counted."""
    waiting = {
        name: lambda call=call: jax.block_until_ready(call()) for name, call in calls.items()
    }
    for call in waiting.values():
        call()
    return timing.wall_and_cpu_in_turn(waiting, repeats)


def decoder_calls(size: str, resolution: int) -> dict[str, Callable]:
    """The UNet of `size` forward, and forward and backward, ours and diffusers'."""
    import torch

    from benchmarks.torch_networks import build_unet

    module = UNet(**UNET_SIZES[size])
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (BATCH_SIZE, resolution, resolution, 3))
    latents = jax.random.normal(keys[1], (BATCH_SIZE, resolution // 8, resolution // 8, 4))
    t = jnp.full(BATCH_SIZE, 0.5)
    params = jax.jit(module.init)(jax.random.key(0), x, t, latents)
    options = compiler_options(local_mesh())
    forward = jax.jit(module.apply, compiler_options=options)
    loss = lambda *inputs: jnp.mean(module.apply(*inputs) ** 2)  # noqa: E731
    backward = jax.jit(jax.grad(loss), compiler_options=options)

    network = build_unet(module, 3 + latents.shape[-1])
    image = torch.randn(BATCH_SIZE, 3 + latents.shape[-1], resolution, resolution)
    times = torch.full((BATCH_SIZE,), 500.0)

    @torch.no_grad()
    def torch_forward() -> None:
        network(image, times)

    def torch_backward() -> None:
        network.zero_grad(set_to_none=True)
        (network(image, times).sample ** 2).mean().backward()

    return {
        "forward": lambda: forward(params, x, t, latents),
        "forward, PyTorch": torch_forward,
        "forward and backward": lambda: backward(params, x, t, latents),
        "forward and backward, PyTorch": torch_backward,
    }


def convolution_calls(side: int, inputs: int, outputs: int) -> dict[str, Callable]:
    """A 3 x 3 convolution and its gradients, as XLA has them by default, ours, and PyTorch's."""
    import torch

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    functions = {
        "forward": lambda x, kernel, _: convolve(x, kernel),
        "by x": lambda x, kernel, grad: jax.vjp(lambda x: convolve(x, kernel), x)[1](grad)[0],
        "by kernel": lambda x, kernel, grad: jax.vjp(lambda k: convolve(x, k), kernel)[1](grad)[0],
    }
    shapes = (
        (BATCH_SIZE, side, side, inputs),
        (3, 3, inputs, outputs),
        (BATCH_SIZE, side, side, outputs),
    )
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    calls = {}
    for how, options in (("default", None), ("ours", compiler_options(local_mesh()))):
        for name, function in functions.items():
            jitted = jax.jit(function, compiler_options=options)
            calls[f"{name}, {how}"] = functools.partial(jitted, *arrays)

    x, kernel, grad = (torch.from_numpy(np.array(array)) for array in arrays)
    x, grad = x.permute(0, 3, 1, 2), grad.permute(0, 3, 1, 2)
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def backward(which: int) -> torch.Tensor:
        numbers = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        is_wanted = [which == 0, which == 1, False]
        function = torch.ops.aten.convolution_backward
        return function(grad, x, kernel, None, *numbers, is_wanted)[which]

    calls["forward, PyTorch"] = lambda: torch.conv2d(x, kernel, padding=1)
    calls["by x, PyTorch"] = lambda: backward(0)
    calls["by kernel, PyTorch"] = lambda: backward(1)
    return calls


def report_convolutions(shapes: Sequence[tuple[int, int, int]], repeats: int) -> None:
    """Prints GFLOP/s of each of `convolution_calls`, a line for each shape and direction."""
    print(f"  {'side, inputs, outputs':<24}{'':<12}{'default':>9}{'ours':>9}{'PyTorch':>9}")
    for side, inputs, outputs in shapes:
        flops = 2 * 9 * BATCH_SIZE * side**2 * inputs * outputs
        seconds = time_in_turn(convolution_calls(side, inputs, outputs), repeats)
        for name in ("forward", "by x", "by kernel"):
            rates = (flops / seconds[f"{name}, {how}"][0] for how in ("default", "ours", "PyTorch"))
            cells = "".join(f"{rate / 1e9:>9.0f}" for rate in rates)
            print(f"  {f'{side}, {inputs}, {outputs}':<24}{name:<12}{cells}", flush=True)


def step_calls(name: str) -> dict[str, Callable]:
    """The step of a config and its parts, as `step_flops.parts` names them, of zeros."""
    config = importlib.import_module(f"configs.{name}").get_config()
    step = build_train_step(config)
    programs = parts(step, frozen_inputs(config), config.data.resolution)
    options = compiler_options(local_mesh())

    def call(function: Callable, arguments: tuple) -> Callable:
        arguments = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), arguments)
        return functools.partial(jax.jit(function, compiler_options=options), *arguments)

    return {part: call(*program) for part, program in programs.items()}


def report(calls: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """Prints the table of `calls`, and returns it."""
    seconds = time_in_turn(calls, repeats)
    for name, (wall, cpu) in seconds.items():
        print(f"  {name:<32}{wall:>8.3f} s{cpu:>8.3f} CPU s", flush=True)
    return seconds


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="b", help="of the decoder, a key of UNET_SIZES")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--config", default="tiny", help="name in configs/, whose step is timed")
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    print(f"decoder {arguments.size}, {arguments.resolution} px, batch {BATCH_SIZE}:")
    report(decoder_calls(arguments.size, arguments.resolution), arguments.repeats)
    print(f"3 x 3 convolutions, batch {BATCH_SIZE}, and their gradients, GFLOP/s:")
    report_convolutions(CONVOLUTIONS, 2 * arguments.repeats)
    print(f"step of {arguments.config} and its parts, batch 2:")
    report(step_calls(arguments.config), arguments.repeats)


if __name__ == "__main__":
    main()
