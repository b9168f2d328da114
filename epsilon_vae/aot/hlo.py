"""Reads the text of a compiled program (HLO): its computations, instructions and shapes."""

import dataclasses
import functools
import math
import re

_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_NAME = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """A shape, and whether it lies in HBM or in a memory on the chip (`S(1)` and on)."""

    dims: tuple[int, ...]
    num_bytes: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: without its %.
      opcode: as 'fusion', 'all-gather-start'.
      arrays: of its result, in order; several for a tuple.
      operands: names of instructions; for a constant, its value.
      attributes: the rest of the line.
      is_root: its result is the computation's.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole result."""
        return sum(array.num_bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        """Bytes of the part of the result that lies in HBM."""
        return sum(array.num_bytes for array in self.arrays if array.in_hbm)

    def called(self, attribute: str) -> list[str]:
        """Computations that an attribute names, as `calls=%a`, `branch_computations={%a, %b}`."""
        match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.-]+)", self.attributes)
        return _NAME.findall(match[1]) if match else []

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else None


class Computation:
    """Instructions in order, by name, and by who uses them."""

    def __init__(self, instructions: list[Instruction]):
        self.instructions = instructions
        self._by_name = {x.name: x for x in instructions}

    def __getitem__(self, name: str) -> Instruction:
        return self._by_name[name]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def root(self) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(x for x in reversed(self.instructions) if x.is_root)

    def operands(self, x: Instruction) -> list[Instruction]:
        """The instructions that `x` reads."""
        return [self._by_name[name] for name in x.operands if name in self._by_name]

    def source(self, x: Instruction) -> Instruction:
        """Returns the instruction that `x` is a copy of, under whatever layout."""
        while x.opcode in ("copy", "bitcast", "copy-start", "copy-done", "convert") and x.operands:
            x = self._by_name[x.operands[0]]
        return x

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name → the instructions that read it."""
        users: dict[str, list[Instruction]] = {x.name: [] for x in self.instructions}
        for x in self.instructions:
            for name in set(x.operands) & users.keys():
                users[name].append(x)
        return users


@dataclasses.dataclass(frozen=True)
class Module:
    """All computations by name, and the entry's name."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """A module from `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current, instructions = "", None, []
    for line in text.splitlines():
        if current is None:
            header = _COMPUTATION.match(line)
            if header:
                current, instructions = header[2], []
                entry = current if header[1] else entry
        elif line.startswith("}"):
            computations[current] = Computation(instructions)
            current = None
        else:
            match = _INSTRUCTION.match(line)
            if match:
                instructions.append(_instruction(match[2], match[3], is_root=bool(match[1])))
    return Module(computations, entry)


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    operands = _NAME.findall(inside) or ([inside] if inside else [])
    attributes = rest[closing + 1 :]
    return Instruction(
        name=name,
        opcode=rest[:opening],
        arrays=_arrays(shapes),
        operands=tuple(operands),
        attributes=attributes,
        is_root=is_root,
    )


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"no closing parenthesis: {text[:80]}")


@functools.lru_cache(maxsize=65536)
def _arrays(shapes: str) -> tuple[Array, ...]:
    arrays = []
    for dtype, dims_text, layout in _SHAPE.findall(shapes):
        dims = tuple(int(size) for size in dims_text.split(",") if size)
        num_bytes = math.ceil(math.prod(dims) * _bits(dtype) / 8)
        arrays.append(Array(dims, num_bytes, not re.search(r"S\([1-9]", layout)))
    return tuple(arrays)


def _bits(dtype: str) -> int:
    """`bf16` → 16; of what has no size in its name, a `pred` is a byte, a `token` nothing."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else {"pred": 8}.get(dtype, 0)
