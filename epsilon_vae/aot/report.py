"""Compiles a program and says what it takes: one tree of numbers, printed as a table or JSON."""

import re
import time

import jax
from jax.sharding import Mesh

from epsilon_vae.aot.chips import Topology
from epsilon_vae.aot.hlo import parse
from epsilon_vae.aot.program import Program
from epsilon_vae.aot.roofline import bytes_sent, roofline
from epsilon_vae.aot.traffic import traffic
from epsilon_vae.training.flops import jaxpr_flops

GIB = 2**30


def measure(program: Program, topology: Topology, mesh: Mesh) -> dict:
    """Compiles, and returns all numbers; `fits` says whether the chip's memory is enough."""
    started = time.monotonic()
    traced = program.trace(mesh)
    chips = len(topology.devices)
    flops = {
        "model": program.model_flops,
        "executed": jaxpr_flops(traced.jaxpr.jaxpr),
        "model_an_image": program.model_flops / program.num_images,
    }
    result = {
        "what": program.what,
        "topology": topology.name,
        "num_slices": topology.num_slices,
        "chips": chips,
        "mesh": dict(mesh.shape),
        "images": program.num_images,
        "flops": flops,
    }
    try:
        with jax.set_mesh(mesh):
            compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = _memory_of_failure(str(error), program)
        compiled = None
    else:
        memory = _memory(compiled.memory_analysis())
    memory["usable"] = topology.chip.hbm_bytes
    memory["left"] = topology.chip.hbm_bytes - memory["total"]
    result["compile_seconds"] = time.monotonic() - started
    result["fits"] = memory["left"] >= 0
    result["hbm_bytes_a_chip"] = memory
    if compiled:
        result |= _speed(compiled, program, topology)
    return result


def _memory(stats) -> dict[str, int | None]:
    """Bytes on a chip of a compiled program."""
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs_beyond_arguments": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return memory | {"total": sum(memory.values())}


def _memory_of_failure(message: str, program: Program) -> dict[str, int | None]:
    """Bytes on a chip by what the compiler says when they are too many."""
    arguments = program.argument_bytes()
    used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    used = used or re.search(r"total memory required[^(]*\(([\d.]+)([KMGT]?)\)", message)
    if not used:
        raise ValueError(f"the compiler ran out of memory and does not say of which: {message}")
    total = int(float(used[1]) * 2 ** {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[used[2]])
    return {
        "arguments": arguments,
        "outputs_beyond_arguments": None,
        "temporaries": max(total - arguments, 0),
        "program": None,
        "total": total,
    }


def _speed(compiled: jax.stages.Compiled, program: Program, topology: Topology) -> dict:
    chips = len(topology.devices)
    moved = traffic(parse(compiled.as_text()), chips // topology.num_slices)
    cost = compiled.cost_analysis()
    flops_a_chip = cost["flops"] * moved.products / max(moved.products_once, 1)
    roof = roofline(topology.chip, flops_a_chip, moved.hbm_bytes, moved.collectives)
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
        "flops_a_chip": flops_a_chip,
        "hbm_traffic_bytes_a_chip": moved.hbm_bytes,
        "xla_bytes_accessed_a_chip": cost["bytes accessed"],
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
        "model_flops_share": at_peak / roof.seconds,
    }


def table(result: dict) -> str:
    """The report as aligned text."""
    rows: list[tuple[str, str, str]] = []
    for name, count in result["parameters"].items():
        rows.append((f"{name} parameters", f"{count / 1e6:.2f} M", ""))
    memory = result["hbm_bytes_a_chip"]
    notes = {
        "arguments": "parameters, EMA, optimizer state, frozen weights, images",
        "outputs_beyond_arguments": "what does not take an argument's place",
        "temporaries": "activations, gradients",
        "total": f"of {memory['usable'] / GIB:.2f} GiB that a program may use",
    }
    for name in ("arguments", "outputs_beyond_arguments", "temporaries", "program", "total"):
        if memory[name] is not None:
            words = name.replace("_", " ")
            value = f"{memory[name] / GIB:.3f} GiB"
            rows.append((f"HBM a chip: {words}", value, notes.get(name, "")))
    flops, chips = result["flops"], result["chips"]
    rows += [
        ("model FLOPs a call", f"{flops['model'] / 1e12:.4g} T", "products, without remat's"),
        ("model FLOPs an image", f"{flops['model_an_image'] / 1e9:.4g} G", ""),
        ("executed FLOPs a call", f"{flops['executed'] / 1e12:.4g} T", "with remat's"),
    ]
    if "seconds" in result:
        rows += _speed_rows(result, chips)
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    if result.get("has_branches"):
        lines.append("Of branches the costliest is counted: a step that computes R1.")
    return "\n".join([*lines, verdict(result)])


def _speed_rows(result: dict, chips: int) -> list[tuple[str, str, str]]:
    seconds = result["seconds"]
    rows = [
        (
            "compiled FLOPs, all chips",
            f"{result['flops_a_chip'] * chips / 1e12:.4g} T",
            "XLA's count of the compiled program, loops multiplied out",
        ),
        (
            "HBM traffic a chip",
            f"{result['hbm_traffic_bytes_a_chip'] / 1e9:.4g} GB",
            f"XLA counts {result['xla_bytes_accessed_a_chip'] / 1e9:.4g} GB, "
            "on-chip memory included, loops once",
        ),
    ]
    for c in result["collectives"]:
        where = " between slices" if c["crosses_slices"] else ""
        rows.append(
            (
                f"{c['count']} x {c['kind']}",
                f"{c['bytes'] / 1e6:.4g} MB",
                f"over {c['chips']} chips{where}; a chip sends "
                f"{c['bytes_sent_a_chip'] / 1e6:.4g} MB",
            )
        )
    for name in ("compute", "memory", "interconnect"):
        rows.append((f"time, {name}", f"{seconds[name] * 1e3:.3f} ms", result["assumptions"][name]))
    return rows + [
        ("bound", f"{seconds['bound'] * 1e3:.3f} ms", f"by {result['bound_by']}, all overlapping"),
        ("without overlap", f"{seconds['without_overlap'] * 1e3:.3f} ms", ""),
        ("images per second, at most", f"{result['images_per_second']:.4g}", ""),
        (
            "model FLOP share, at most",
            f"{100 * result['model_flops_share']:.1f} %",
            "model FLOPs over what the chips could do in the bound's time",
        ),
    ]


def verdict(result: dict) -> str:
    """One line: it fits, or by how much it does not."""
    left = result["hbm_bytes_a_chip"]["left"] / GIB
    if result["fits"]:
        return f"Fits: {left:.2f} GiB a chip to spare."
    return f"Does not fit: {-left:.2f} GiB a chip too much."
