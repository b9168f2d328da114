"""Counts what one chip moves in one call of a program: between chips, and to and from HBM.

XLA's cost analysis counts a loop's body once, and bytes that never leave the chip like those of
HBM. Here each loop counts as often as it runs. Of a conditional's branches the costliest counts.
"""

import dataclasses
import math
import re

from epsilon_vae.aot.collectives import Collective, between_slices, channel_of, collective
from epsilon_vae.aot.hlo import Computation, Instruction, Module
from epsilon_vae.training.flops import valid_products

# These move nothing themselves; the ends of asynchronous pairs are counted at their starts.
_FREE = re.compile(
    r"parameter|constant|tuple|get-tuple-element|bitcast|while|conditional|call|after-all|"
    r"add-dependency|opt-barrier|optimization-barrier|partition-id|replica-id|iota|async-start|"
    r".*-done|.*-update"
)
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(kw_only=True)
class Traffic:
    """The traffic of one chip in one call.

    Attributes:
      collectives: how often each runs.
      hbm_bytes: read from and written to HBM, without the padding of tiles.
      products: FLOPs of convolutions and dots, of all but padding.
      loops: how often each loop runs, by its name; 0 where the text does not tell, counted as 1.
      has_branches: not every call costs the same.
    """

    collectives: dict[Collective, int] = dataclasses.field(default_factory=dict)
    hbm_bytes: int = 0
    products: int = 0
    loops: dict[str, int] = dataclasses.field(default_factory=dict)
    has_branches: bool = False

    def add(self, other: "Traffic", times: int = 1) -> None:
        """Adds another's, run so many times."""
        for one, count in other.collectives.items():
            self.collectives[one] = self.collectives.get(one, 0) + times * count
        self.hbm_bytes += times * other.hbm_bytes
        self.products += times * other.products
        self.loops |= other.loops
        self.has_branches |= other.has_branches


def traffic(module: Module, num_chips: int, num_slices: int = 1) -> Traffic:
    """Counts the traffic of one call of a program on so many chips in so many slices."""
    return _Walk(module, num_chips, num_slices).cost(module.entry)


class _Walk:
    def __init__(self, module: Module, num_chips: int, num_slices: int):
        self._computations = module.computations
        self._chips_per_slice, self._num_slices = num_chips // num_slices, num_slices
        self._costs: dict[str, Traffic] = {}

    def cost(self, name: str) -> Traffic:
        if name not in self._costs:
            self._costs[name] = self._computation_cost(self._computations[name])
        return self._costs[name]

    def _computation_cost(self, computation: Computation) -> Traffic:
        total, transfers = Traffic(), set()
        for x in computation.instructions:
            if x.opcode == "while":
                trips = _trip_count(self._computations, computation, x)
                total.add(self.cost(x.called("body")[0]), trips or 1)
                total.loops[x.name] = trips
            elif x.opcode == "conditional":
                names = x.called("branch_computations")
                names = names or x.called("true_computation") + x.called("false_computation")
                branches = [self.cost(name) for name in names]
                total.add(max(branches, key=lambda cost: (cost.products, cost.hbm_bytes)))
                total.has_branches = True
            elif x.opcode == "call":
                total.add(self.cost(x.called("to_apply")[0]))
            elif x.opcode == "async-start":
                total.add(self.cost(x.called("calls")[0]))
            elif x.opcode == "fusion":
                inner = self.cost(x.called("calls")[0])
                total.add(dataclasses.replace(inner, hbm_bytes=0, collectives={}))
                total.hbm_bytes += self._fusion_bytes(computation, x)
                self._add_fused_collectives(total, x, transfers)
            else:
                self._add_plain(total, computation, x)
        return total

    def _add_fused_collectives(self, total: Traffic, fusion: Instruction, seen: set[str]) -> None:
        """Adds those whose channel is not in `seen`, and puts it there.

        A transfer beside a computation is written where it starts, in what runs beside it, and
        where it ends: three fusions, one channel.
        """
        body = self._computations[fusion.called("calls")[0]]
        for x in body.instructions:
            exchange = collective(body, x, self._chips_per_slice)
            channel = channel_of(x)
            if exchange and channel not in seen:
                total.collectives[exchange] = total.collectives.get(exchange, 0) + 1
                seen.add(channel)

    def _add_plain(self, total: Traffic, computation: Computation, x: Instruction) -> None:
        exchange = collective(computation, x, self._chips_per_slice) or between_slices(
            x, self._num_slices
        )
        if exchange:
            total.collectives[exchange] = total.collectives.get(exchange, 0) + 1
        products = _products(computation, x)
        total.products += products
        total.hbm_bytes += _plain_bytes(computation, x)

    def _fusion_bytes(self, computation: Computation, x: Instruction) -> int:
        """HBM bytes that a fusion reads and writes: of what it slices or updates, that part."""
        body = self._computations[x.called("calls")[0]]
        if any('"AsyncCollectiveDone"' in y.attributes for y in body.instructions):
            return 0
        total = 0
        for y in body.instructions:
            if y.opcode != "parameter":
                continue
            operand = computation[x.operands[int(y.operands[0])]]
            read = sum(_bytes_read(body, y, user) for user in body.users[y.name])
            total += min(operand.hbm_bytes, read)
        root = body.root
        roots = body.operands(root) if root.opcode == "tuple" else [root]
        if len(roots) != len(x.arrays):
            return total + x.hbm_bytes
        for result, array in zip(roots, x.arrays, strict=True):
            made = body.source(result)
            if made.opcode == "dynamic-update-slice":
                total += body.operands(made)[1].num_bytes if array.in_hbm else 0
            elif made.opcode != "parameter":
                total += array.num_bytes if array.in_hbm else 0
        return total


def _bytes_read(body: Computation, parameter: Instruction, user: Instruction) -> int:
    """Bytes that one user of a fusion's parameter reads of it."""
    if user.opcode == "bitcast":
        return sum(_bytes_read(body, user, next_user) for next_user in body.users[user.name])
    if user.opcode in _SLICES:
        return user.num_bytes
    if user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
        return 0  # updated in place
    return parameter.num_bytes


def _plain_bytes(computation: Computation, x: Instruction) -> int:
    if _FREE.fullmatch(x.opcode):
        return 0
    if x.opcode == "custom-call" and not x.operands:
        return 0  # allocates
    if x.opcode.endswith("-start"):
        return x.hbm_bytes if x.opcode != "slice-start" else 2 * x.arrays[1].num_bytes
    if x.opcode in _SLICES:
        return 2 * x.hbm_bytes
    operands = computation.operands(x)
    if x.opcode == "dynamic-update-slice":
        return 2 * operands[1].hbm_bytes
    return x.hbm_bytes + sum(operand.hbm_bytes for operand in operands)


def _products(computation: Computation, x: Instruction) -> int:
    """FLOPs of a convolution or a dot; none for what only meets padding."""
    if x.opcode not in ("convolution", "dot"):
        return 0
    lhs, rhs = (operand.arrays[0].dims for operand in computation.operands(x))
    out = x.arrays[0].dims
    if x.opcode == "dot":
        contracted = x.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2 * math.prod(out) * math.prod(lhs[int(i)] for i in contracted.split(",") if i)
    lhs_labels, rhs_labels, out_labels = re.search(
        r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes
    ).groups()
    products = 2 * out[out_labels.index("b")] * out[out_labels.index("f")]
    products *= rhs[rhs_labels.index("i")]
    window = x.attribute(r"window=\{([^}]*)\}") or ""
    for label in filter(str.isdigit, rhs_labels):
        i = int(label)
        products *= valid_products(
            lhs[lhs_labels.index(label)],
            rhs[rhs_labels.index(label)],
            out=out[out_labels.index(label)],
            stride=_of_window(window, "stride", i, 1),
            padding=_of_window(window, "pad", i, 0),
            lhs_dilation=_of_window(window, "lhs_dilate", i, 1),
            rhs_dilation=_of_window(window, "rhs_dilate", i, 1),
        )
    return products


def _of_window(window: str, key: str, i: int, default: int) -> int:
    """Dimension i's number (its low padding, for `pad`) of `size=3x3 pad=1_1x0_2 stride=2x2`."""
    match = re.search(rf"\b{key}=(\S+)", window)
    return int(match[1].split("x")[i].split("_")[0]) if match else default


def _trip_count(
    computations: dict[str, Computation], computation: Computation, loop: Instruction
) -> int:
    """How often a loop `for i in range(start, end)` runs; 0 where the text does not tell.

    Some compilers write `known_trip_count`. Else the condition compares an element of the loop's
    tuple with a constant, and the tuple starts that element at another; JAX's loops count by 1.
    """
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    condition = computations[loop.called("condition")[0]]
    compare = condition.source(condition.root)
    if compare.opcode == "fusion":
        inner = computations[compare.called("calls")[0]]
        outer, compare = compare, inner.root
        operands = [
            condition[outer.operands[int(y.operands[0])]] if y.opcode == "parameter" else y
            for y in map(inner.source, inner.operands(compare))
        ]
    else:
        operands = [condition.source(x) for x in condition.operands(compare)]
    if compare.opcode != "compare" or "direction=LT" not in compare.attributes:
        return 0
    counter, end = (condition.source(x) if x.name in condition else x for x in operands)
    index = counter.attribute(r"index=(\d+)")
    carried = computation.operands(computation.source(computation.operands(loop)[0]))
    if end.opcode == "get-tuple-element":  # the end itself is carried
        end = computation.source(carried[int(end.attribute(r"index=(\d+)"))])
    if end.opcode != "constant" or index is None:
        return 0
    start = computation.source(carried[int(index)])
    first = int(start.operands[0]) if start.opcode == "constant" else 0
    return max(int(end.operands[0]) - first, 0)
