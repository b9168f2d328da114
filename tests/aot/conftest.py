"""Small programs compiled for four chips of a v5e that is not there."""

import jax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from epsilon_vae.aot.chips import compile_without_tpu, open_topology
from epsilon_vae.aot.hlo import parse
from epsilon_vae.aot.traffic import Traffic, traffic
from epsilon_vae.parallel.mesh import make_mesh


@pytest.fixture(scope="session")
def topology():
    compile_without_tpu()
    return open_topology("v5e:2x2")


@pytest.fixture(scope="session")
def mesh(topology):
    return make_mesh(1, 4, 1, devices=topology.devices)


@pytest.fixture(scope="session")
def traffic_of(mesh):
    """Compiles a function of arrays given as (shape, dtype, spec), and reads what it moves."""

    def compile_and_read(function, *arrays, out: P) -> Traffic:
        structs = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
            for shape, dtype, spec in arrays
        ]
        jitted = jax.jit(function, out_shardings=NamedSharding(mesh, out))
        return traffic(parse(jitted.lower(*structs).compile().as_text()), 4)

    return compile_and_read
