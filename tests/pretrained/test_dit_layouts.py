"""Names and shapes of DiT's public weights, against a list that their own code gave."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from epsilon_vae.models.dit import DIT_SIZES, ClassDiT, DiT, sincos_positions
from epsilon_vae.pretrained import dit_layouts
from epsilon_vae.pretrained.layouts import DIFFUSERS, DIT
from tests.pretrained.test_layouts import read_shapes

SMALL = {"depth": 2, "width": 16, "heads": 2}


def shapes(size: dict) -> dict[str, tuple[int, ...]]:
    """Of our parameters, by path."""
    module = ClassDiT(DiT(**size, patch=2, out_channels=8), num_classes=1000)
    inputs = np.zeros((1, 32, 32, 4)), np.zeros(1), np.zeros(1, int)
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def small_state(layout=DIT) -> dict[str, np.ndarray]:
    params = {path: np.ones(shape, np.float32) for path, shape in shapes(SMALL).items()}
    return dit_layouts.state_dict(layout, params, 2)


def test_names_and_shapes_are_those_of_the_public_xl_2():
    params = {p: np.broadcast_to(np.float32(0), x) for p, x in shapes(DIT_SIZES["xl"]).items()}
    ours = {name: x.shape for name, x in dit_layouts.state_dict(DIT, params, 2).items()}
    theirs = read_shapes("dit_xl_2")
    assert dit_layouts.detect(theirs) is DIT
    assert ours | {"pos_embed": (1, 256, 1152)} == theirs


def test_positions_that_a_file_has_must_be_dits():
    state = small_state()
    positions = np.array(sincos_positions(16, 16, 16)).reshape(1, 256, 16)
    state["pos_embed"] = positions.astype(np.float16)
    assert (
        dit_layouts.parameters(DIT, state, shapes=shapes(SMALL), patch=2).keys()
        == shapes(SMALL).keys()
    )
    rows_first = positions.reshape(16, 16, 16).swapaxes(0, 1).reshape(1, 256, 16)
    not_finite = np.full_like(positions, np.nan)
    for wrong in (rows_first, positions[:, :250], np.zeros_like(positions), not_finite, np.ones(3)):
        state["pos_embed"] = wrong
        with pytest.raises(ValueError, match="pos_embed .*: not (DiT's sines and cosines|.1, N)"):
            dit_layouts.parameters(DIT, state, shapes=shapes(SMALL), patch=2)


def test_what_does_not_fit_is_counted_and_named():
    state = small_state()
    del state["t_embedder.mlp.0.bias"]
    state["y_embedder.embedding_table.weight"] = np.ones((1000, 16))
    state["blocks.2.mlp.fc1.bias"] = np.ones(64)
    with pytest.raises(ValueError) as error:
        dit_layouts.parameters(DIT, state, shapes=shapes(SMALL), patch=2)
    assert str(error.value) == (
        "1 missing: t_embedder.mlp.0.bias; 1 unknown: blocks.2.mlp.fc1.bias; 1 of another shape: "
        "y_embedder.embedding_table.weight (1000, 16), expected (1001, 16)"
    )
    assert dit_layouts.detect(small_state(DIFFUSERS)) is DIFFUSERS
    with pytest.raises(ValueError, match="not a DiT: it has none of x_embedder.*diffusers"):
        dit_layouts.detect(["encoder.conv_in.weight"])
