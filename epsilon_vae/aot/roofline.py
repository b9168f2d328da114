"""About the least time of a call on a chip: compute, memory and interconnect, each at its peak."""

import dataclasses

from epsilon_vae.aot.chips import Chip
from epsilon_vae.aot.collectives import Collective

# What a chip sends in a ring of n, over the bytes of the whole, as a multiple of (n - 1) / n.
_RING = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2, "all-to-all": 1}


def bytes_sent(collective: Collective) -> float:
    """Bytes that each chip sends in one collective, by a ring's formulae."""
    n = collective.group_size
    if collective.kind in ("collective-permute", "collective-broadcast"):
        return collective.num_bytes
    return _RING.get(collective.kind, 1) * (n - 1) / n * collective.num_bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of one call, each alone; and the assumption behind each, in words."""

    compute: float
    memory: float
    interconnect: float
    assumptions: dict[str, str]

    @property
    def seconds(self) -> float:
        """The bound: the largest of the three, as if they overlapped perfectly."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def seconds_without_overlap(self) -> float:
        """Their sum."""
        return self.compute + self.memory + self.interconnect

    @property
    def bound_by(self) -> str:
        """The name of the largest."""
        return max(("compute", "memory", "interconnect"), key=lambda name: getattr(self, name))


def roofline(
    chip: Chip, flops: float, *, hbm_bytes: float, collectives: dict[Collective, int]
) -> Roofline:
    """The bounds of one chip's FLOPs, HBM bytes and collectives in one call.

    Args:
      chip: that computes.
      flops: of products, in one call.
      hbm_bytes: read and written.
      collectives: how often each happens.
    """
    ici = dcn = 0.0
    for collective, count in collectives.items():
        sent = count * bytes_sent(collective)
        if collective.crosses_slices:
            dcn += sent
        else:
            ici += sent
    ring = 2 * chip.ici_bytes_per_second
    assumptions = {
        "compute": f"all FLOPs at the bfloat16 peak, {chip.flops_per_second / 1e12:.0f} TFLOP/s",
        "memory": f"each HBM byte once, at {chip.hbm_bytes_per_second / 1e9:.0f} GB/s",
        "interconnect": f"rings along one axis both ways, {ring / 1e9:.0f} GB/s, no latency",
    }
    if dcn:
        assumptions["interconnect"] += (
            f"; between slices {chip.dcn_bytes_per_second / 1e9:.2f} GB/s a chip"
        )
    return Roofline(
        compute=flops / chip.flops_per_second,
        memory=hbm_bytes / chip.hbm_bytes_per_second,
        interconnect=ici / ring + dcn / chip.dcn_bytes_per_second,
        assumptions=assumptions,
    )
