"""Reads pickles without making anything that they ask for.

A pickle is a program that names functions of installed packages and calls them. Here it is read as
data: numbers, texts, lists and dictionaries are made, and of everything else it is noted what would
have been called. Nothing is imported or called, and nothing of this process is within reach.
https://docs.python.org/3/library/pickletools.html
"""

import dataclasses
import pickletools
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple

# Some 40 times those of Stable Diffusion's checkpoints; so many take seconds, and 200 MB.
MAX_OPCODES = 2_000_000
# What is made of Python's own library by objects that lie beside weights. A file that asks for more
# of it is an attack on other readers.
_PLAIN = re.compile(
    r"argparse\.Namespace|_codecs\.encode|copy_?reg\._reconstructor|functools\.partial"
    r"|random\.Random|types\.SimpleNamespace"
    r"|(collections|datetime|decimal|enum|fractions|pathlib|typing|uuid)\.[\w.]+"
    r"|(builtins|__builtin__)\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|long"
    r"|object|range|set|slice|str|tuple|type|unicode|xrange)"
)
_PYTHONS = sys.stdlib_module_names | {"__builtin__", "copy_reg"}  # Python 2 called two otherwise


class Global(NamedTuple):
    """The name of a function or class, which is not looked up."""

    module: str
    name: str


@dataclasses.dataclass(kw_only=True, eq=False, slots=True)
class Call:
    """What a pickle would have made by a call.

    Attributes:
      function: that would have been called: a `Global`, or a `Call` that would have made it, or a
        `Reference`.
      args: of the call.
      state: that would have been set afterwards.
      entries: with names that would have been set afterwards.
    """

    function: object
    args: tuple
    state: object = None
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)


class Reference(NamedTuple):
    """Something that lies outside of the pickle, by what the pickle calls it."""

    name: object


class Pickled(NamedTuple):
    """The content of a pickle, and all `references` in it."""

    value: Any
    references: list[Reference]


def read_pickle(file: BinaryIO) -> Pickled:
    """Reads one pickle, after which the file stands.

    It is of None, bool, int, float, str, bytes, bytearray, tuples, lists (sets too), dictionaries
    without the keys that are no texts, and `Global`, `Call` and `Reference`.

    Args:
      file: in memory, since a pickle may claim any length.

    Raises:
      ValueError: it is broken or too long, or asks for what no weights need.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count == MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES} opcodes")
            machine.step(opcode.name, argument)
        return Pickled(machine.pop(), machine.references)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle takes what it has not put there") from error


def entries_of(value: object) -> dict[str, Any]:
    """Entries with names of a dictionary or of something like one; of anything else, none."""
    if isinstance(value, Call) and value.function == Global("collections", "OrderedDict"):
        pairs = value.args[0] if value.args else []  # Python 2 gives all as pairs
        return {k: x for k, x in pairs if isinstance(k, str)} | value.entries
    return value.entries if isinstance(value, Call) else value if isinstance(value, dict) else {}


# Opcodes whose argument is their value; those of a constant; those of something empty.
_VALUES = {"FLOAT", "BINFLOAT", "BYTEARRAY8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_VALUES |= {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # Python 2's
_VALUES |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable] = {
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Pickle's machine: a stack, marks in it, and values that were put by for later."""

    def __init__(self):
        self.references: list[Reference] = []
        self._stack: list = []
        self._marks: list[list] = []  # each the stack below a mark
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Takes one opcode; raises ValueError, IndexError or KeyError where it cannot be."""
        if name in _VALUES:
            self._push(argument)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _EMPTY:
            self._push(_EMPTY[name]())
        elif name in _TUPLES:
            self._push(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._push(self._memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            handle = getattr(self, f"_{name.lower()}", None)
            if handle is None:
                raise ValueError(f"its pickle has the opcode {name}, which no weights need")
            handle(argument)

    def pop(self) -> Any:
        """What is on top, taken away."""
        return self._stack.pop()

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _take(self, count: int) -> list:
        """The `count` topmost values, taken away, the topmost last."""
        return [self.pop() for _ in range(count)][::-1]

    # Below, methods are opcodes; most have no argument.

    def _mark(self, _: None) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self, _: None = None) -> list:
        """The values above the last mark, taken away with it."""
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _pop(self, _: None) -> None:
        if self._stack:
            self.pop()
        else:
            self._pop_mark()

    def _dup(self, _: None) -> None:
        self._push(self._stack[-1])

    def _tuple(self, _: None) -> None:
        self._push(tuple(self._pop_mark()))

    def _list(self, _: None) -> None:
        self._push(self._pop_mark())

    _frozenset = _list

    def _dict(self, _: None) -> None:
        values = self._pop_mark()
        self._push({})
        self._set(values)

    def _append(self, _: None) -> None:
        self._extend([self.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._pop_mark())

    _additems = _appends

    def _extend(self, values: list) -> None:
        """Appends to the list on top; a call's result is no list that anybody needs."""
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(values)
        elif not isinstance(self._stack[-1], Call):
            raise ValueError("its pickle appends to what is no list")

    def _setitem(self, _: None) -> None:
        self._set(self._take(2))

    def _setitems(self, _: None) -> None:
        self._set(self._pop_mark())

    def _set(self, values: list) -> None:
        """Sets entries of what is on top, given as key, value, key, value, …

        Other keys than texts could be nested beyond what hashing them bears.
        """
        target = self._stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if not isinstance(entries, dict):
            raise ValueError("its pickle sets entries of what is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if isinstance(key, str):
                entries[key] = value

    def _persid(self, name: str) -> None:
        self.references.append(Reference(name))
        self._push(self.references[-1])

    def _binpersid(self, _: None) -> None:
        self._persid(self.pop())

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: None) -> None:
        self._name(*self._take(2))

    def _name(self, module: object, name: object) -> None:
        """Pushes a name, unless no object beside weights has it."""
        path = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        if not path.isprintable() or not 1 < len(path) < 300:
            raise ValueError("refused: it asks for what is no name")
        if path.partition(".")[0] in _PYTHONS and not _PLAIN.fullmatch(path):
            raise ValueError(f"refused: it asks for {path}, which no weights need")
        self._push(Global(module, name))

    def _reduce(self, _: None) -> None:
        self._call(*self._take(2))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        function, args, _kwargs = self._take(3)
        self._call(function, args)

    def _obj(self, _: None) -> None:
        function, *args = self._pop_mark()
        self._call(function, args)

    def _inst(self, argument: str) -> None:
        args = self._pop_mark()
        self._global(argument)
        self._call(self.pop(), args)

    def _call(self, function: object, args: Iterable) -> None:
        is_callable = isinstance(function, Global | Call | Reference)
        if not is_callable or not isinstance(args, tuple | list):
            raise ValueError("its pickle calls what cannot be called")
        self._push(Call(function=function, args=tuple(args)))

    def _build(self, _: None) -> None:
        target, state = self._stack[-2:]
        if not isinstance(target, Call):
            raise ValueError("refused: it changes what it has not made")
        target.state = state
        self.pop()
