"""Compiles a program and measures it: one tree of numbers, ready to be printed or written."""

import re
import time

import jax

from epsilon_vae.aot.chips import Topology
from epsilon_vae.aot.hlo import parse
from epsilon_vae.aot.program import Program
from epsilon_vae.aot.roofline import bytes_sent, roofline
from epsilon_vae.aot.traffic import traffic
from epsilon_vae.training.flops import jaxpr_flops


def measure(program: Program, topology: Topology) -> dict:
    """All numbers; `fits` says whether a chip's memory is enough, without which there is no speed.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed, for another reason than memory.
    """
    started = time.monotonic()
    traced = program.trace()
    result = {
        "what": program.what,
        "topology": topology.name,
        "num_slices": topology.num_slices,
        "chips": len(topology.devices),
        "mesh": dict(program.mesh.shape),
        "images": program.num_images,
        "parameters": program.parameter_counts,
        "flops": {
            "model": program.model_flops,
            "model_an_image": program.model_flops / program.num_images,
            "executed": jaxpr_flops(traced.jaxpr.jaxpr),
        },
    }
    compiled = None
    try:
        with jax.set_mesh(program.mesh):
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = memory_of_failure(str(error), program.argument_bytes())
    else:
        memory = _memory(compiled.memory_analysis())
    usable = topology.chip.hbm_bytes
    result["compile_seconds"] = time.monotonic() - started
    result["fits"] = memory["total"] <= usable and compiled is not None
    result["hbm_bytes_a_chip"] = memory | {"usable": usable, "left": usable - memory["total"]}
    if compiled is not None:
        try:
            result |= _speed(compiled, program, topology)
        except ValueError as error:  # after minutes of compiling, what is known is still told
            result["speed_unknown"] = str(error)
    return result


def _memory(stats) -> dict[str, int]:
    """Bytes on a chip of a compiled program."""
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs_beyond_arguments": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return memory | {"total": sum(memory.values())}


def memory_of_failure(message: str, argument_bytes: int) -> dict[str, int | None]:
    """Bytes on a chip by what the compiler says when they are too many.

    It tells the sum alone; what arguments do not take is under 'temporaries'.

    Raises:
      ValueError: the message names no sum.
    """
    match = re.search(r"total memory required for [^(]*\(([\d.]+)([KMGT]?)\)", message)
    match = match or re.search(r"\bUsed ([\d.]+)([KMGT]?) of", message)
    if not match:
        raise ValueError(f"out of memory, but it does not say how much: {message}")
    total = int(float(match[1]) * 2 ** {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]])
    return {
        "arguments": argument_bytes,
        "outputs_beyond_arguments": None,
        "temporaries": max(total - argument_bytes, 0),
        "program": None,
        "total": total,
    }


def _speed(compiled: jax.stages.Compiled, program: Program, topology: Topology) -> dict:
    """FLOPs, bytes, collectives and the roofline of a compiled program."""
    chips = len(topology.devices)
    moved = traffic(parse(compiled.as_text()), chips, topology.num_slices)
    roof = roofline(
        topology.chip, moved.products, hbm_bytes=moved.hbm_bytes, collectives=moved.collectives
    )
    at_peak = program.model_flops / chips / topology.chip.flops_per_second
    collectives = [
        {
            "kind": c.kind,
            "bytes": c.num_bytes,
            "chips": c.group_size,
            "crosses_slices": c.crosses_slices,
            "count": count,
            "bytes_sent_a_chip": bytes_sent(c) * count,
        }
        for c, count in moved.collectives.items()
    ]
    return {
        "compiled_flops_a_chip": moved.products,
        "hbm_traffic_bytes_a_chip": moved.hbm_bytes,
        "xla_bytes_accessed_a_chip": compiled.cost_analysis()["bytes accessed"],
        "loops": moved.loops,
        "has_branches": moved.has_branches,
        "collectives": sorted(collectives, key=lambda c: -c["bytes_sent_a_chip"]),
        "seconds": {
            "compute": roof.compute,
            "memory": roof.memory,
            "interconnect": roof.interconnect,
            "bound": roof.seconds,
            "without_overlap": roof.seconds_without_overlap,
        },
        "assumptions": roof.assumptions,
        "bound_by": roof.bound_by,
        "images_per_second": program.num_images / roof.seconds,
        # The compiler computes once what two losses share: 0.3 % less than the model, in `sd_m`.
        "model_flops_share": min(at_peak / roof.seconds, 1.0),
    }
