"""What is kept, what is read back, what happens to what cannot be read."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from epsilon_vae.checkpoint import Checkpointer, CheckpointError, load_config, load_parts
from epsilon_vae.step_folders import directory, find_step, load, newest_step

CONFIG = ml_collections.ConfigDict({"seed": 1, "optim": {"lr": 0.5}})
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state(value: float) -> dict:
    return {"ema": {"w": jnp.full((3, 4), value)}, "step": jnp.asarray(int(value))}


def target(tree) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=DEVICE), tree)


def save(workdir, steps, **options) -> None:
    checkpointer = Checkpointer(str(workdir), **options)
    for step in steps:
        checkpointer.save(step, state(step), data={"next_index": step}, config=CONFIG)
    checkpointer.close()


def saved_steps(workdir) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_newest_step_or_one_that_is_preferred(tmp_path):
    assert newest_step(str(tmp_path)) is None
    save(tmp_path, [0])
    assert newest_step(str(tmp_path)) == 0
    save(tmp_path, [1, 12, 9], keep=4)
    found = [load(str(tmp_path), lambda x: x.name, preferred=step) for step in (None, 5, 9)]
    assert found == ["12", "12", "9"]


def damage(workdir, step: int) -> None:
    for file in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def test_bucket_is_not_taken_for_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert directory("gs://bucket/run").as_posix() == "gs://bucket/run/checkpoints"
    assert directory("run").as_posix() == f"{tmp_path}/run/checkpoints"


def test_newest_are_kept_and_a_permanent_one_every_so_often(tmp_path):
    save(tmp_path, range(1, 8), keep=2, permanent_every_steps=3)
    assert saved_steps(tmp_path) == [3, 6, 7]


def save_scores(workdir, scores: dict, **options) -> list[int | None]:
    """Saves steps with a PSNR each, or without scores; which was the best after each."""
    checkpointer, best = Checkpointer(str(workdir), keep_best="psnr", **options), []
    for step, psnr in scores.items():
        found = {} if psnr is None else {"psnr": psnr, "ssim": -psnr, "lpips_vgg16": psnr}
        checkpointer.save(step, state(step), data={}, config=CONFIG, scores=found)
        best.append(checkpointer.best_step())
    checkpointer.close()
    return best


def test_best_is_kept_beside_the_newest_and_after_resuming(tmp_path):
    """Some steps have no scores; a later best takes its place, also in another process."""
    assert save_scores(tmp_path, {1: None, 2: 20.0, 3: 30.0, 4: 10.0, 5: None}) == [
        *(None, 2, 3, 3, 3)
    ]
    assert saved_steps(tmp_path) == [3, 5]
    assert save_scores(tmp_path, {6: 29.0, 7: 5.0}, permanent_every_steps=6) == [3, 3]
    assert saved_steps(tmp_path) == [3, 6, 7]
    assert save_scores(tmp_path, {8: 31.0, 9: 1.0}) == [8, 8]
    assert saved_steps(tmp_path) == [8, 9]
    assert Checkpointer(str(tmp_path)).restore_newest(target(state(0))).step == 9
    step = find_step(str(tmp_path), 8)  # whole: its scores are among what checksums are of
    assert load(str(tmp_path), load_config, step=8).seed == 1
    next((step / "metrics").iterdir()).write_text('{"psnr": 99}')
    with pytest.raises(CheckpointError, match=r"8: cannot be read \(metrics/"):
        load(str(tmp_path), load_config, step=8)


def test_best_by_another_score_than_before(tmp_path):
    """LPIPS, by whatever network, is the better the lower it is."""
    save_scores(tmp_path, {1: 20.0, 2: 30.0, 3: 10.0}, keep=3)
    checkpointer = Checkpointer(str(tmp_path), keep_best="lpips")
    assert checkpointer.best_step() == 3
    assert checkpointer.is_best({"lpips_alexnet": 9.0, "psnr": 0.0})
    assert not checkpointer.is_best({"lpips_alexnet": 10.0, "psnr": 99.0})
    assert not checkpointer.is_best({}) and Checkpointer(str(tmp_path)).best_step() is None
    assert not Checkpointer(str(tmp_path)).is_best({"psnr": 99.0})


def test_best_that_is_damaged_gives_way(tmp_path):
    save_scores(tmp_path, {1: 10.0, 2: 20.0}, keep=2)
    damage(tmp_path, 2)
    checkpointer = Checkpointer(str(tmp_path), keep=2, keep_best="psnr")
    assert checkpointer.restore_newest(target(state(0))).step == 1
    assert checkpointer.best_step() == 1 and checkpointer.is_best({"psnr": 15.0})


def test_all_comes_back(tmp_path):
    save(tmp_path, [2], keep=1)
    restored = Checkpointer(str(tmp_path)).restore_newest(target(state(0)))
    np.testing.assert_array_equal(restored.state["ema"]["w"], np.full((3, 4), 2.0))
    assert restored.data == {"next_index": 2} and restored.step == 2
    assert restored.config.to_dict() == CONFIG.to_dict()


def test_state_may_be_overwritten_while_it_is_saved(tmp_path):
    """The step donates its state: what is saved must be what was there when `save` was called."""
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpointer, value = Checkpointer(str(tmp_path), keep=9), {"w": jnp.zeros((1000, 1000))}
    for step in range(1, 5):
        value = add(value)
        checkpointer.save(step, value, data={}, config=CONFIG)
    checkpointer.close()
    for step in range(1, 5):
        loaded = load_parts(find_step(str(tmp_path), step), target({"w": value["w"]}))
        np.testing.assert_array_equal(loaded["w"], np.full((1000, 1000), float(step)))


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpointer(str(tmp_path)).restore_newest(target(state(0))) is None


def test_where_none_can_be_read_all_stay_in_place(tmp_path):
    save(tmp_path, [1, 2], keep=2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[2, 1\] can be read"):
        Checkpointer(str(tmp_path)).restore_newest(target(state(0)))
    assert saved_steps(tmp_path) == [1, 2]


def test_damaged_step_is_moved_aside_and_can_be_saved_again(tmp_path):
    save(tmp_path, [1, 2], keep=2)
    damage(tmp_path, 2)
    checkpointer = Checkpointer(str(tmp_path), keep=2)
    assert checkpointer.restore_newest(target(state(0))).step == 1
    checkpointer.save(2, state(2), data={}, config=CONFIG)
    checkpointer.close()
    assert Checkpointer(str(tmp_path)).restore_newest(target(state(0))).step == 2


def test_misfit_names_each_leaf(tmp_path):
    save(tmp_path, [1])
    wanted = target({"ema": {"w": jnp.zeros((3, 5)), "b": jnp.zeros(2)}})
    with pytest.raises(CheckpointError) as error:
        load_parts(find_step(str(tmp_path), 1), wanted)
    message = str(error.value)
    assert "ema/w is (3, 4) in the checkpoint, (3, 5) here" in message
    assert "ema/b (2,) is not in the checkpoint" in message
    assert "step " not in message


def test_part_of_a_field_is_checked_and_loaded_alone(tmp_path):
    """What lies beside it, and in paths that begin alike, may be of any other shape."""
    tree = {"ema": {"a": {"w": jnp.ones(3)}, "ab": {"w": jnp.ones(4)}}}
    checkpointer = Checkpointer(str(tmp_path))
    checkpointer.save(1, tree, data={}, config=CONFIG)
    checkpointer.close()
    loaded = load_parts(find_step(str(tmp_path)), {"ema/a": target({"w": jnp.zeros(3)})})
    assert loaded.keys() == {"ema"} and loaded["ema"].keys() == {"a"}
    np.testing.assert_array_equal(loaded["ema"]["a"]["w"], np.ones(3))
    with pytest.raises(CheckpointError) as error:
        load_parts(find_step(str(tmp_path)), {"ema/a": target({"b": jnp.zeros(3)})}, "what else")
    assert str(error.value).endswith(
        "in 2 parameters: ema/a/b (3,) is not in the checkpoint; ema/a/w (3,) is only in the "
        "checkpoint; take its own config, or what else"
    )


def test_config_and_its_step(tmp_path):
    save(tmp_path, [1, 2], keep=2)
    newest = find_step(str(tmp_path))
    assert newest.name == "2" and load_config(newest).optim.lr == 0.5
    with pytest.raises(CheckpointError, match=r"no step 7; there are \[1, 2\]"):
        find_step(str(tmp_path), 7)
