"""What is said to help, and by how much."""

import jax
import pytest

from epsilon_vae.aot.advice import larger_topology, suggest_for_reconstruction, suggest_for_step
from epsilon_vae.aot.measure import memory_of_failure
from epsilon_vae.aot.program import prepare_reconstruction
from tests.helpers import state_shapes


def memory(arguments: int, temporaries: int, usable: int) -> dict:
    total = arguments + temporaries
    return {
        "arguments": arguments,
        "temporaries": temporaries,
        "total": total,
        "usable": usable,
    }


def test_fsdp_then_remat_then_accumulation(small_config, topology):
    small_config.batch_size = 16
    small_config.dtype = "bfloat16"
    suggestions = suggest_for_step(small_config, topology, memory(2**26, 2**30, 2**29))
    assert [s.settings for s in suggestions] == [
        {"mesh.fsdp": 4},
        {"mesh.fsdp": 4, "model.remat": "convs"},
        {"mesh.fsdp": 4, "model.remat": "full"},
        {"mesh.fsdp": 4, "optim.accumulate": 2},
        {"mesh.fsdp": 4, "optim.accumulate": 4},
    ]
    # What fsdp spares: three quarters of what is sharded, but for the gathered kernels.
    state = state_shapes(small_config)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    spared = memory(2**26, 2**30, 2**29)["total"] - suggestions[0].hbm_bytes
    assert 0.2 * whole < spared < 0.75 * whole
    # Half of the activations are left, and one more set of gradients.
    gained = suggestions[0].hbm_bytes - suggestions[3].hbm_bytes
    assert 0.45 * 2**30 < gained < 0.5 * 2**30
    assert suggestions[4].flags == "--config.mesh.fsdp=4 --config.optim.accumulate=4"
    assert suggestions[4].applied(small_config).optim.accumulate == 4
    assert small_config.optim.accumulate == 1


def test_no_advice_that_cannot_run(small_config, topology):
    """One image a chip cannot be split, and full remat is the most."""
    small_config.batch_size = 4
    small_config.model.remat = "full"
    small_config.mesh.fsdp = 4
    assert suggest_for_step(small_config, topology, memory(2**26, 2**30, 2**29)) == []


def test_reconstruction_spreads_rows(small_config, topology):
    small_config.mesh.data, small_config.mesh.space = 2, 2
    config = prepare_reconstruction(small_config, 2, 1000)
    assert config.data.resolution == 1000
    (suggestion,) = suggest_for_reconstruction(config, topology, memory(0, 2**30, 2**29))
    assert suggestion.settings == {"mesh.data": 1, "mesh.fsdp": 1, "mesh.space": 4}
    assert suggestion.hbm_bytes == 2**29


def test_larger_topology_names_a_power_of_two():
    assert "  4 times the chips" in larger_topology(memory(0, 30, 10))


@pytest.mark.parametrize(
    ("message", "total"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (26.50G) exceeds available HBM (15.75G).",
            26.5 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 900.25M of 512.00M hbm. Exceeded hbm capacity by 388.25M.",
            900.25 * 2**20,
        ),
    ],
)
def test_the_compilers_words_for_too_much(message, total):
    found = memory_of_failure(message, argument_bytes=2**20)
    assert found["total"] == total and found["temporaries"] == total - 2**20


def test_a_failure_that_names_no_sum_is_refused():
    with pytest.raises(ValueError, match="does not say how much"):
        memory_of_failure("RESOURCE_EXHAUSTED: of patience", 0)
