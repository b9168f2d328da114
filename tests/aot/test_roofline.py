"""Bytes of a ring and times, by hand."""

import pytest

from epsilon_vae.aot.chips import Chip
from epsilon_vae.aot.collectives import Collective
from epsilon_vae.aot.roofline import bytes_sent, roofline

CHIP = Chip(
    name="x",
    hbm_bytes=100,
    flops_per_second=1e12,
    hbm_bytes_per_second=1e9,
    ici_bytes_per_second=1e6,
    dcn_bytes_per_second=1e5,
)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 750),
        ("reduce-scatter", 750),
        ("all-reduce", 1500),
        ("all-to-all", 750),
        ("collective-permute", 1000),
    ],
)
def test_bytes_that_a_chip_sends_of_a_thousand_among_four(kind, sent):
    assert bytes_sent(Collective(kind=kind, num_bytes=1000, group_size=4)) == sent


def test_times_and_bound():
    collectives = {Collective(kind="all-gather", num_bytes=4_000_000, group_size=4): 2}
    roof = roofline(CHIP, 2e12, hbm_bytes=1e9, collectives=collectives)
    # 2 x 3 MB over a ring of two links of 1 MB/s.
    assert (roof.compute, roof.memory, roof.interconnect) == (2.0, 1.0, 3.0)
    assert roof.seconds == 3.0 and roof.bound_by == "interconnect"
    assert roof.seconds_without_overlap == 6.0


def test_what_crosses_slices_takes_the_data_centres_network():
    roof = roofline(
        CHIP,
        0,
        hbm_bytes=0,
        collectives={
            Collective(kind="all-reduce", num_bytes=100_000, group_size=2, crosses_slices=True): 1
        },
    )
    assert roof.interconnect == 1.0
    assert "between slices" in roof.assumptions["interconnect"]
