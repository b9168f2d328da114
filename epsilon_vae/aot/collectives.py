"""Collectives: which chips exchange what, as a compiled program's text says it."""

import dataclasses
import math
import re

import numpy as np

from epsilon_vae.aot.hlo import Computation, Instruction

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One transfer between chips.

    Attributes:
      kind: as 'all-gather'.
      num_bytes: of the whole: an all-gather's result, a reduce-scatter's operand, what an
        all-reduce adds up, what one chip sends in a permutation.
      group_size: chips among which it happens; 2 for a permutation.
      crosses_slices: they are not all on one slice.
    """

    kind: str
    num_bytes: int
    group_size: int
    crosses_slices: bool = False


def channel_of(x: Instruction) -> str:
    """What the parts of one transfer share: its channel, or its name if the text gives none."""
    return x.attribute(r"channel_id=(\d+)") or x.name


def collective(computation: Computation, x: Instruction, per_slice: int) -> Collective | None:
    """Returns the collective that an instruction is, or None; `per_slice` chips make up a slice."""
    kind = x.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    num_bytes = sum(operand.num_bytes for operand in computation.operands(x))
    group = replica_group(x.attributes)
    if kind == "all-gather":
        num_bytes *= len(group)
    # So a TPU writes a reduce-scatter: a fusion that keeps a chip's part of an all-reduce.
    root = computation.root
    if kind == "all-reduce" and root.opcode == "dynamic-slice" and x.name in root.operands:
        kind = "reduce-scatter"
    crosses = len({device // per_slice for device in group}) > 1
    return (
        Collective(kind=kind, num_bytes=num_bytes, group_size=len(group), crosses_slices=crosses)
        if len(group) > 1
        else None
    )


def between_slices(x: Instruction, num_slices: int) -> Collective | None:
    """Returns what a chip sends to its like on other slices, written as a send to the host."""
    transfer = x.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if x.opcode != "send" or not transfer:
        return None
    kind = transfer.lower().replace("_", "-")
    times = num_slices if kind == "all-gather" else 1
    return Collective(
        kind=kind,
        num_bytes=times * x.arrays[0].num_bytes,
        group_size=num_slices,
        crosses_slices=True,
    )


def replica_group(attributes: str) -> list[int]:
    """Devices of the first group of a collective, in any of HLO's notations.

    `replica_groups={{0,1},{2,3}}`; `[2,4]<=[4,2]T(1,0)`, an iota reshaped and transposed;
    `mesh['a'=2,'b'=4] {'b'}`, axes of a mesh, perhaps with `device_ids=([4,2]T(1,0))` before the
    axes; and `source_target_pairs={{0,1},…}`, of which a pair is the group.

    Raises:
      ValueError: none of these.
    """
    match = re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes)
    if match:
        return _integers(match[1])
    match = re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if match:
        return _iota(match[2]).reshape(_integers(match[1]))[0].tolist()
    match = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))?\s*\{([^}]*)\}", attributes
    )
    if match:
        return _mesh_group(match[1], match[2], match[3])
    raise ValueError(f"groups of a collective in an unknown notation: {attributes[:120]}")


def _integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _iota(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: 0 to 7 as 4 × 2, transposed."""
    dims, order = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    sizes = _integers(dims)
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(_integers(order) if order else None)


def _mesh_group(mesh: str, device_ids: str | None, axes: str) -> list[int]:
    """The first group along `'b'`, or a part of it, `'b':(2)4`, of a mesh `'a'=2,'b'=8`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    if device_ids is None:
        devices = np.arange(math.prod(sizes.values()))
    elif device_ids.startswith("["):
        devices = _iota(device_ids)
    else:
        devices = np.array(_integers(device_ids))
    index = dict.fromkeys(sizes, slice(0, 1))
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
        if size:  # the axis seen as before × size × after
            after = sizes[name] // int(before) // int(size)
            index[name] = slice(0, int(size) * after, after)
        else:
            index[name] = slice(None)
    return devices.reshape(list(sizes.values()))[tuple(index.values())].ravel().tolist()
