"""Device time by kind of kernel: a trace of JAX's profiler, and the text of the compiled program.

A trace has a GPU's kernels on its lines `Stream #…`, and what a CPU runs of a program on its
threads. An event's `hlo_op` names the operation of the program that it belongs to; a kernel that
comes out of a CUDA graph (XLA's command buffers) has none, but those that XLA has made are called
as their operation is, and those of NVIDIA's libraries tell by their names what they do.
"""

import collections
import contextlib
import dataclasses
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator

import jax

from epsilon_vae.aot.hlo import Instruction, Module, parse

PRODUCTS, NORMS, COPIES = (
    "convolutions and products",
    "GroupNorm and activations",
    "copies and layout changes",
)
ATTENTION, OPTIMIZER, OTHER = "attention", "optimizer and EMA", "other"
KINDS = (PRODUCTS, NORMS, COPIES, ATTENTION, OPTIMIZER, OTHER)

# These only contain others.
_CONTAINERS = {"while", "conditional", "call"}
# These compute nothing, and stand in fusions of any kind.
_NEUTRAL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "convert"}
_MOVES = {
    *("copy", "copy-start", "copy-done", "transpose", "reshape", "slice", "concatenate", "pad"),
    *("broadcast", "reverse", "dynamic-slice", "dynamic-update-slice", "gather", "iota"),
}
_PRODUCT_TARGET = re.compile(r"conv|gemm|matmul|cublas", re.IGNORECASE)
_ATTENTION_TARGET = re.compile(r"fmha|flash|sdpa|attention", re.IGNORECASE)

# By what `op_name` says of the place in the source. Queries, keys, values and the projection are
# products like any other; the step's own operations, outside of all networks and gradients, are
# the optimizers' and the moving average's, and the norms of gradients.
_ATTENTION_SCOPE = re.compile(r"attention\w*/(?!.*\b(norm|qkv|out)/)")
_NORM_SCOPE = re.compile(
    r"(^|/)(norm(\d*|_out)/|jit\((silu|swish|\w*relu|gelu|softplus|sigmoid)\))"
)
_STEP_SCOPE = re.compile(r"^jit\(\w+\)/\w+$")

# XLA takes the place in the source off some products; of those, attention's alone are batched.
_BATCHED = re.compile(r'lhs_batch_dims=\{\d|"lhs_batch_dimensions":\["\d')

_LAYOUT_KERNEL = re.compile(
    r"nchwToNhwc|nhwcToNchw|tensorTransform|^mem(cpy|set)|transpose", re.IGNORECASE
)
_PRODUCT_KERNEL = re.compile(
    r"conv(?!ert)|gemm|xmma|cutlass|nvjet|cudnn|wgrad|dgrad|fprop", re.IGNORECASE
)


@dataclasses.dataclass(kw_only=True)
class Kernel:
    """All calls of one kernel of an operation.

    Attributes:
      kind: one of `KINDS`.
      name: as the trace has it.
      scope: of the operation in the source; empty where it is unknown.
      seconds, calls: together.
    """

    kind: str
    name: str
    scope: str
    seconds: float = 0.0
    calls: int = 0


class Operations:
    """The kinds of a compiled program's operations, by their names."""

    def __init__(self, text: str):
        module = parse(text)
        self._found: dict[str, tuple[str, str]] = {}
        self._containers: set[str] = set()
        for computation in module.computations.values():
            for x in computation.instructions:
                if x.opcode in _CONTAINERS:
                    self._containers.add(x.name)
                self._found[_plain(x.name)] = _kind(module, x), _scope(x)

    def is_container(self, name: str) -> bool:
        """Whether the operation's time is that of others."""
        return name in self._containers

    def kind_and_scope(self, kernel: str, operation: str | None) -> tuple[str, str]:
        """What a kernel does, and where in the source.

        Args:
          kernel: its name.
          operation: that it belongs to; None where the trace does not tell.
        """
        kind, scope = self._found.get(_plain(operation or kernel), (None, ""))
        is_library = _plain(kernel) not in self._found
        if is_library and _LAYOUT_KERNEL.search(kernel) and not _PRODUCT_KERNEL.search(kernel):
            return COPIES, scope
        if kind is not None:
            return kind, scope
        if _ATTENTION_TARGET.search(kernel):
            return ATTENTION, scope
        return (PRODUCTS if _PRODUCT_KERNEL.search(kernel) else OTHER), scope


def _kind(module: Module, x: Instruction) -> str:
    """By what is computed in it, or else by where the source asks for it."""
    parts = [x]
    for name in x.called("calls"):
        parts += module.computations[name].instructions
    targets = " ".join(part.attribute(r'custom_call_target="([^"]*)"') or "" for part in parts)
    scopes = [scope for part in parts if (scope := _scope(part))]

    def share(pattern: re.Pattern) -> float:
        return sum(bool(pattern.search(scope)) for scope in scopes) / max(len(scopes), 1)

    opcodes = {part.opcode for part in parts}
    is_batched = any(_BATCHED.search(part.attributes) for part in parts if not _scope(part))
    if _ATTENTION_TARGET.search(targets) or is_batched or share(_ATTENTION_SCOPE) > 0.5:
        return ATTENTION
    if opcodes & {"convolution", "dot"} or _PRODUCT_TARGET.search(targets):
        return PRODUCTS
    if opcodes <= _NEUTRAL | _MOVES | {"fusion"}:
        return COPIES
    if share(_STEP_SCOPE) > 0.5:
        return OPTIMIZER
    return NORMS if share(_NORM_SCOPE) > 0 else OTHER


def _scope(x: Instruction) -> str:
    return x.attribute(r'op_name="([^"]*)"') or ""


def _plain(name: str) -> str:
    """As XLA writes it in the name of a kernel: `loop_add_fusion.3` is `loop_add_fusion_3`."""
    return re.sub(r"\W", "_", name)


@contextlib.contextmanager
def trace(folder: str | None = None, *, device: bool = True) -> Iterator[list]:
    """Traces what the block runs; then the list holds the trace, a `jax.profiler.ProfileData`.

    Args:
      folder: that the trace is left in, for XProf or Perfetto; None for none.
      device: whether kernels of a GPU are of interest; hundreds of thousands may run in a
        compilation.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    if not device:
        options.advanced_configuration = {"gpu_max_activity_api_events": 1}
    profiles: list = []
    with tempfile.TemporaryDirectory() as temporary:
        with jax.profiler.trace(folder or temporary, profiler_options=options):
            yield profiles
        paths = pathlib.Path(folder or temporary).rglob("*.xplane.pb")
        newest = max(paths, key=lambda path: path.stat().st_mtime)
        profiles.append(jax.profiler.ProfileData.from_file(str(newest)))


def kernels(profile: jax.profiler.ProfileData, text: str) -> list[Kernel]:
    """The kernels of one device in a trace, those that take longest first.

    Args:
      profile: a trace of one program's calls.
      text: of that program, `compiled.as_text()`.
    """
    operations, found = Operations(text), {}
    planes = [plane for plane in profile.planes if plane.name.startswith("/device:GPU")]
    for name, operation, seconds in _gpu_events(planes) if planes else _cpu_events(profile):
        if operations.is_container(operation or name):
            continue
        kind, scope = operations.kind_and_scope(name, operation)
        kernel = found.setdefault((name, operation), Kernel(kind=kind, name=name, scope=scope))
        kernel.seconds += seconds / max(len(planes), 1)
        kernel.calls += 1
    return sorted(found.values(), key=lambda kernel: -kernel.seconds)


def _gpu_events(planes: list) -> Iterator[tuple[str, str | None, float]]:
    """Name, operation and seconds of each kernel; other lines repeat what the streams have."""
    for plane in planes:
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    yield event.name, operation, event.duration_ns / 1e9


def _cpu_events(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, str | None, float]]:
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                operation = dict(event.stats).get("hlo_op")
                if operation is not None:
                    yield event.name, operation, event.duration_ns / 1e9


def print_table(found: list[Kernel], *, calls: int, seconds: float, longest: int) -> None:
    """Prints milliseconds of one call by kind, and the kernels that take longest.

    Args:
      found: as `kernels` gives them.
      calls: of the program in the trace.
      seconds: by the clock, of one call outside of the trace.
      longest: so many kernels are listed.
    """
    total = sum(kernel.seconds for kernel in found)
    if not total:
        print("The trace names no kernels: this table is for GPUs and CPUs.")
        return
    by_kind: collections.Counter = collections.Counter()
    for kernel in found:
        by_kind[kernel.kind] += kernel.seconds
    print(f"kernels of one call, {seconds * 1e3:.2f} ms by the clock:")
    for kind in KINDS:
        print(f"  {kind:<28}{by_kind[kind] / calls * 1e3:>10.2f} ms{by_kind[kind] / total:>7.1%}")
    print(f"  {'all':<28}{total / calls * 1e3:>10.2f} ms")
    if jax.default_backend() == "cpu":
        print("(On a CPU the profiler does not see convolutions, which run in Eigen's threads.)")
    print("those that take longest: ms and times of one call, kind, kernel, place in the source")
    for kernel in found[:longest]:
        milliseconds, times = kernel.seconds / calls * 1e3, kernel.calls / calls
        words = f"{kernel.name[:60]}  {kernel.scope[-70:]}"
        print(f"  {milliseconds:>8.3f} {times:>6.0f}x  {kernel.kind:<27}{words}")


def seconds_of(profile: jax.profiler.ProfileData, pattern: str) -> float:
    """Seconds in which a host event with such a name was under way, those that overlap once."""
    matches: Callable = re.compile(pattern).search
    spans = sorted(
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in profile.planes
        if plane.name.startswith("/host:")
        for line in plane.lines
        for event in line.events
        if matches(event.name)
    )
    total, covered = 0.0, 0.0
    for start, end in spans:
        total += max(end - max(start, covered), 0)
        covered = max(covered, end)
    return total / 1e9
