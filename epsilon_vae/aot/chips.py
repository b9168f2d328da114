"""TPU chips by the numbers that a roofline needs, and slices of them that nobody has to own."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies

from epsilon_vae.errors import UserError

EXAMPLES = "v5e:4x4, v5p:2x2x1, v6e:4x8"


class TopologyError(UserError):
    """A topology that cannot be compiled for; the message says what would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip, by its maker's specification.

    Attributes:
      hbm_bytes: that a program may use, as the compiler says when one does not fit; the data sheet
        counts what the system keeps for itself too.
      flops_per_second: peak of the matrix units at bfloat16. float32 matrix products run at it as
        well: JAX's default precision on TPU rounds their operands to bfloat16.
      hbm_bytes_per_second: peak.
      ici_bytes_per_second: of one link to one neighbour, in one direction: the data sheet's
        bidirectional bandwidth a chip, over its links, halved.
      dcn_bytes_per_second: of the data centre's network, a chip's share, in one direction.
    """

    name: str
    hbm_bytes: int
    flops_per_second: float
    hbm_bytes_per_second: float
    ici_bytes_per_second: float
    dcn_bytes_per_second: float


# From https://docs.cloud.google.com/tpu/docs/v5e, …/v5p and …/v6e: peak bf16 compute, HBM
# bandwidth, "Bidirectional ICI bandwidth (per chip)" of 400, 1200 and 800 GB/s over 4, 6 and 4
# links, and DCN of 6.4 Tbps a pod of 256, 50 Gbps a chip, 25.6 Tbps a pod of 256.
CHIPS = {
    "v5e": Chip(
        name="v5e",
        hbm_bytes=int(15.75 * 2**30),
        flops_per_second=197e12,
        hbm_bytes_per_second=819e9,
        ici_bytes_per_second=50e9,
        dcn_bytes_per_second=6.4e12 / 256 / 8,
    ),
    "v5p": Chip(
        name="v5p",
        hbm_bytes=int(95.74 * 2**30),
        flops_per_second=459e12,
        hbm_bytes_per_second=2765e9,
        ici_bytes_per_second=100e9,
        dcn_bytes_per_second=50e9 / 8,
    ),
    "v6e": Chip(
        name="v6e",
        hbm_bytes=int(31.25 * 2**30),
        flops_per_second=918e12,
        hbm_bytes_per_second=1638e9,
        ici_bytes_per_second=100e9,
        dcn_bytes_per_second=25.6e12 / 256 / 8,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Chips that are compiled for.

    Attributes:
      name: as 'v5e:4x4'.
      chip: of which kind.
      devices: all of them, slice by slice; they can be compiled for, not computed on.
      num_slices: joined by the data centre's network.
    """

    name: str
    chip: Chip
    devices: list[jax.Device]
    num_slices: int


def compile_without_tpu() -> None:
    """Sets what libtpu needs to compile on any machine; call it before anything is compiled."""
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    # What it would otherwise look for, in vain and loudly.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def open_topology(name: str, num_slices: int = 1) -> Topology:
    """The devices of `num_slices` slices, named as 'v5e:4x4'.

    Raises:
      TopologyError: no such topology, or libtpu is not installed.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", name)
    if not match or match[1] not in CHIPS:
        raise TopologyError(
            f"{name}: expected one of {', '.join(CHIPS)} with a shape, as {EXAMPLES}"
        )
    shape = [int(size) for size in match[2].split("x")]
    # A host has 2 × 2 chips, but for the slices that are less than one.
    small = {} if math.prod(shape) >= 4 else {"chips_per_host_bounds": [*shape, 1, 1][:3]}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=name, num_slices=num_slices, **small
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TopologyError(f"{name}: no such shape ({reason}); as {EXAMPLES}") from error
    except RuntimeError as error:  # JAX finds no libtpu
        raise TopologyError(
            f"{name}: the TPU compiler is not installed; pip install -e '.[tpu]'"
        ) from error
    return Topology(
        name=name, chip=CHIPS[match[1]], devices=list(description.devices), num_slices=num_slices
    )
