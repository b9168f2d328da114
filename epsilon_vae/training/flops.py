"""Counts what a config costs before it is compiled: parameters, and FLOPs in the jaxpr."""

import math

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from epsilon_vae.training.step import Objective, TrainStep


def parameter_counts(objective: Objective) -> dict[str, int]:
    """`{'encoder': …, 'decoder': …, 'discriminator': …}`, or `{'generator': …}`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    networks, discriminator = jax.eval_shape(objective.init, key)
    trees = networks | ({"discriminator": discriminator} if discriminator else {})
    return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in trees.items()}


def step_flops(step: TrainStep, frozen: dict, batch_size: int) -> float:
    """FLOPs of one step, R1 included, as `jaxpr_flops` counts them."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(step.init, key)
    batch = step.objective.batch_shapes(batch_size)
    return jaxpr_flops(jax.make_jaxpr(step)(state, frozen, batch).jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of the matrix products and convolutions, on all devices together.

    Two for each multiplication and addition that a matrix unit must do: products with a
    convolution's padding, or with the holes of a dilated operand, are not counted, as XLA's cost
    analysis does not. Element-wise operations are not counted either: they run beside the matrix
    unit. What nothing uses is not counted. What XLA's does not know is: a loop counts as often as
    it runs. Of a branch the costliest side counts, of a `while` without a length one iteration.
    """
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(used)


def _flops(jaxpr: core.Jaxpr) -> float:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name == "cond":
        return max(_flops(branch.jaxpr) for branch in equation.params["branches"])
    repeats = 1
    if name == "scan":
        repeats = equation.params["length"]
    elif name == "shard_map":  # its body is one device's part
        shape = equation.params["mesh"].shape
        repeats = math.prod(shape[axis] for axis in equation.params["newly_manual_axes"])
    return repeats * sum(_flops(inner) for inner in core.jaxprs_in_params(equation.params))


def _dot_flops(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(lhs[i] for i in contracted)


def _convolution_flops(equation: core.JaxprEqn) -> float:
    params = equation.params
    lhs, rhs = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    dimensions = params["dimension_numbers"]
    batch_and_features = math.prod(out[i] for i in dimensions.out_spec[:2])
    products = batch_and_features * rhs[dimensions.rhs_spec[1]]
    for i, (stride, padding, lhs_dilation, rhs_dilation) in enumerate(
        zip(
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    ):
        products *= valid_products(
            lhs[dimensions.lhs_spec[2 + i]],
            rhs[dimensions.rhs_spec[2 + i]],
            out=out[dimensions.out_spec[2 + i]],
            stride=stride,
            padding=padding[0],
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
        )
    return 2 * products


def valid_products(
    lhs: int, rhs: int, *, out: int, stride: int, padding: int, lhs_dilation: int, rhs_dilation: int
) -> int:
    """How many of a dimension's `out * rhs` products meet an element rather than padding.

    Args:
      lhs, rhs, out: sizes of input, kernel and output.
      stride, padding, lhs_dilation, rhs_dilation: of the convolution.
    """
    at = np.arange(out)[:, None] * stride + np.arange(rhs)[None] * rhs_dilation - padding
    return int(((at >= 0) & (at % lhs_dilation == 0) & (at // lhs_dilation < lhs)).sum())
