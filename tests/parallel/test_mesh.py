"""Which device comes where in a mesh."""

import dataclasses

import pytest

from epsilon_vae.config import ConfigError
from epsilon_vae.parallel.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU device, of which there are none here."""

    id: int
    process_index: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


def slices(count: int, chips: int) -> list[Chip]:
    """Slices of two columns of chips."""
    return [
        Chip(number, number // 4, number // chips, (number % 2, number % chips // 2, 0))
        for number in range(count * chips)
    ]


def test_slices_lie_along_data():
    """fsdp and space stay within a slice, whose chips are near each other."""
    mesh = make_mesh(data=-1, fsdp=2, space=2, devices=slices(2, 8))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "space": 2}
    for data in range(4):
        assert {device.slice_index for device in mesh.devices[data].flat} == {data // 2}


def test_slices_divide_data():
    with pytest.raises(ConfigError, match="config.mesh.data = 1: the 2 slices must divide it"):
        make_mesh(data=1, fsdp=16, devices=slices(2, 8))


def test_an_axis_may_be_longer_than_a_side_of_the_torus():
    assert make_mesh(data=1, fsdp=8, devices=slices(1, 8)).shape["fsdp"] == 8
