"""The DiT as decoder and generator: where it starts, its positions, what it sees of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epsilon_vae.models.dit import ClassDiT, DiT, DiTDecoder, sincos_positions
from tests import golden_params


def test_positions_are_the_columns_and_the_rows():
    """DiT's formula, written out; a larger grid begins with the smaller one."""
    positions = sincos_positions(3, 5, 16)
    assert positions.shape == (3, 5, 16) and positions.dtype == jnp.float32
    for row, column in ((0, 0), (1, 4), (2, 3)):
        halves = []
        for position in (column, row):
            angles = [position / 10000 ** (i / 4) for i in range(4)]
            halves += [*np.sin(angles), *np.cos(angles)]
        np.testing.assert_allclose(positions[row, column], halves, atol=1e-6)
    np.testing.assert_array_equal(sincos_positions(6, 6, 16)[:3, :5], positions)


def test_blocks_are_the_identity_and_the_output_zero_at_the_start():
    module = DiT(depth=1, width=16, heads=2, patch=4, out_channels=3)
    x = jax.random.normal(jax.random.key(0), (1, 8, 12, 3))
    conditioning = jnp.ones((1, 5))
    params = module.init(jax.random.key(1), x, conditioning)
    output, intermediates = module.apply(
        params, x, conditioning, capture_intermediates=True, mutable="intermediates"
    )
    assert output.shape == (1, 8, 12, 3) and not output.any()
    seen = intermediates["intermediates"]
    [patches] = seen["patch"]["__call__"]
    [tokens] = seen["block0"]["__call__"]
    patches += sincos_positions(2, 3, 16)
    np.testing.assert_array_equal(tokens, patches.reshape(1, 6, 16))


def test_prediction_sees_noise_time_and_latents_at_any_size():
    """Images that are not square too, at sizes it was not made for."""
    module = golden_params.MODELS["dit_decoder"]
    assert isinstance(module, DiTDecoder)
    params = golden_params.random_params(module, golden_params.model_inputs(module))
    inputs = {
        "x": jax.random.normal(jax.random.key(0), (1, 16, 48, 3)),
        "t": jnp.array([0.5]),
        "latents": jax.random.normal(jax.random.key(1), (1, 2, 6, 8)),
    }
    predict = jax.jit(lambda inputs: module.apply({"params": params}, **inputs))
    prediction = predict(inputs)
    assert prediction.shape == (1, 16, 48, 3) and prediction.dtype == jnp.float32
    for name, value in inputs.items():
        assert np.abs(predict(inputs | {name: value + 0.1}) - prediction).max() > 1e-3, name


def test_labels_are_seen_and_unknown_ones_are_nan():
    """Latents of any size, too."""
    module = ClassDiT(DiT(depth=1, width=16, heads=2, patch=2, out_channels=4), num_classes=3)
    x, t = jax.random.normal(jax.random.key(0), (1, 4, 8, 2)), jnp.array([0.5])
    params = golden_params.random_params(module, {"x": x, "t": t, "labels": jnp.array([0])})
    predict = jax.jit(lambda label: module.apply({"params": params}, x, t, label[None]))
    predictions = [predict(jnp.int32(label)) for label in range(4)]
    assert predictions[0].shape == (1, 4, 8, 4)
    for label, prediction in enumerate(predictions[:3]):
        assert np.abs(prediction - predictions[label + 1]).max() > 1e-3
    assert np.isnan(predict(jnp.int32(4))).all()


def test_label_table_is_initialised_as_published():
    module = ClassDiT(DiT(depth=1, width=64, heads=2, patch=2, out_channels=4), num_classes=1000)
    inputs = jnp.zeros((1, 2, 2, 2)), jnp.zeros(1), jnp.array([0])
    table = jax.jit(lambda key: module.init(key, *inputs)["params"]["labels"]["embedding"])(
        jax.random.key(0)
    )
    assert table.shape == (1001, 64)
    assert float(jnp.std(table)) == pytest.approx(0.02, rel=0.02)
