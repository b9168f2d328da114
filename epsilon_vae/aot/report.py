"""Writes what `measure` found as text: aligned rows of a quantity, its value and a remark."""

GIB = 2**30
Row = tuple[str, str, str]


def table(result: dict) -> str:
    """The whole report."""
    rows = [
        *_parameter_rows(result),
        *_memory_rows(result["hbm_bytes_a_chip"]),
        *_flops_rows(result),
        *(_speed_rows(result) if "seconds" in result else ()),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
    if "speed_unknown" in result:
        lines.append(f"No times: this compiler writes {result['speed_unknown']}")
    if result.get("has_branches"):
        lines.append("Of branches the costliest is counted, as if every step computed R1.")
    if 0 in result.get("loops", {}).values():
        lines.append("Loops whose length the program does not tell are counted as one iteration.")
    return "\n".join([*lines, verdict(result)])


def verdict(result: dict) -> str:
    """One line: it fits, or by how much it does not."""
    left = result["hbm_bytes_a_chip"]["left"] / GIB
    if result["fits"]:
        return f"Fits: {left:.2f} GiB a chip to spare."
    return f"Does not fit: {-left:.2f} GiB a chip too much."


def _parameter_rows(result: dict) -> list[Row]:
    counts = result["parameters"]
    return [(f"parameters, {name}", f"{n / 1e6:.2f} M", "") for name, n in sorted(counts.items())]


def _memory_rows(memory: dict) -> list[Row]:
    notes = {
        "arguments": "what is there before the call: weights, optimizer state, images",
        "outputs_beyond_arguments": "results that do not take an argument's place",
        "temporaries": "activations, gradients",
        "program": "its code",
        "total": f"of {memory['usable'] / GIB:.2f} GiB that a program may use",
    }
    return [
        (f"HBM a chip, {name.replace('_', ' ')}", f"{memory[name] / GIB:.3f} GiB", words)
        for name, words in notes.items()
        if memory[name] is not None
    ]


def _flops_rows(result: dict) -> list[Row]:
    flops = result["flops"]
    rows = [
        ("model FLOPs", f"{flops['model'] / 1e12:.4g} T", "of a call: products, without remat"),
        ("  an image", f"{flops['model_an_image'] / 1e9:.4g} G", ""),
        ("executed FLOPs", f"{flops['executed'] / 1e12:.4g} T", "with what remat computes again"),
    ]
    if "compiled_flops_a_chip" in result:
        compiled = result["compiled_flops_a_chip"] * result["chips"]
        words = "on all chips: with what the compiler added, or several chips do alike"
        rows.append(("compiled FLOPs", f"{compiled / 1e12:.4g} T", words))
    return rows


def _speed_rows(result: dict) -> list[Row]:
    seconds = result["seconds"]
    accessed = result["xla_bytes_accessed_a_chip"] / 1e9
    return [
        (
            "HBM traffic a chip",
            f"{result['hbm_traffic_bytes_a_chip'] / 1e9:.4g} GB",
            f"XLA's bytes accessed: {accessed:.4g} GB, with on-chip memory, each loop once",
        ),
        *_collective_rows(result["collectives"]),
        *(
            (f"time, {name}", _time(seconds[name]), result["assumptions"][name])
            for name in ("compute", "memory", "interconnect")
        ),
        ("time, at least", _time(seconds["bound"]), f"{result['bound_by']}, hiding the others"),
        ("time, none hidden", _time(seconds["without_overlap"]), "the sum of the three"),
        ("images per second", f"{result['images_per_second']:.4g}", "at most"),
        (
            "model FLOP share",
            f"{100 * result['model_flops_share']:.1f} %",
            "at most: model FLOPs over what all chips can do in that time",
        ),
    ]


def _collective_rows(collectives: list[dict]) -> list[Row]:
    """A row for each kind and group; a step may have thousands of one kind."""
    merged: dict[tuple[str, int, bool], list[dict]] = {}
    for c in collectives:
        merged.setdefault((c["kind"], c["chips"], c["crosses_slices"]), []).append(c)
    rows = []
    for (kind, chips, crosses), same in merged.items():
        count = sum(c["count"] for c in same)
        sizes = sorted({c["bytes"] for c in same})
        of = "pairs of chips" if kind == "collective-permute" else f"{chips} chips"
        span = _size(sizes[0]) + (f" to {_size(sizes[-1])}" if len(sizes) > 1 else "")
        where = ", between slices" if crosses else ""
        sent = sum(c["bytes_sent_a_chip"] for c in same)
        words = f"sent by a chip; {count} over {of}{where}, of {span}"
        rows.append((kind, _size(sent), words))
    return rows


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _size(num_bytes: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.4g} {unit}"
    return f"{num_bytes:.4g} B"
