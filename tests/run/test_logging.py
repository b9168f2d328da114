"""What TensorBoard and W&B get of a run."""

import json
import sys

import pytest
from clu import metric_writers
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.util.tensor_util import make_ndarray

from epsilon_vae.run.logging import RunLog, grouped
from epsilon_vae.run.wandb_writer import WandbError, check_is_installed
from tests import micro
from tests.helpers import FLOW_ALONE, QUICK_FLAGS, STEPS, flags
from tests.processes import finish


def test_events_beyond_the_step_resumed_from_are_purged(tmp_path):
    def steps() -> list[int]:
        files = sorted(tmp_path.glob("events.out.tfevents.*"))
        return [
            event.step
            for file in files
            for event in EventFileLoader(str(file)).Load()
            if event.HasField("summary")
        ]

    for part in (range(1, 4), range(3, 6)):
        writer = metric_writers.SummaryWriter(str(tmp_path))
        for step in part:
            writer.write_scalars(step, {"loss": 1 / step})
        writer.flush()
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes() + b"half")  # of an event, as a kill leaves it

    def open_log(start_step: int) -> None:
        config = micro.get_config()
        RunLog(
            str(tmp_path), config, columns=["loss"], start_step=start_step, heartbeat=None
        ).close()

    open_log(3)
    assert sorted(steps()) == [
        0,
        1,
        2,
        3,
        3,
        3,
    ]  # 0 has the config's values, 3 its text
    open_log(0)
    assert steps() == [0, 0]


def test_losses_come_first():
    """TensorBoard and W&B sort the groups by name."""
    names = ["accuracy/disc_t0", "bad_records", "eval/psnr", "step_seconds_max", "grad_norm/x"]
    names += ["loss/flow", "lr/autoencoder", "wait_percent"]
    assert sorted(map(grouped, names)) == [
        "1_loss/flow",
        "2_eval/psnr",
        "3_lr/autoencoder",
        "4_speed/step_seconds_max",
        "4_speed/wait_percent",
        "5_grad_norm/x",
        "6_accuracy/disc_t0",
        "6_data/bad_records",
    ]


def test_tensorboard_shows_the_config_and_the_final_scores_by_it(finished_run):
    """As its plugins read them."""
    multiplexer = EventMultiplexer().AddRun(str(finished_run), "run")
    multiplexer.Reload()
    (accumulator,) = (multiplexer.GetAccumulator(run) for run in multiplexer.Runs())
    tensors = accumulator.Tags()["tensors"]
    assert (
        sum(tag.startswith("1_loss/") for tag in tensors) == 5 and "3_lr/discriminator" in tensors
    )
    (rate, *_) = accumulator.Tensors("3_lr/autoencoder")
    assert abs(make_ndarray(rate.tensor_proto) - 5e-3) < 1e-8
    (text,) = accumulator.Tensors("config")
    text = make_ndarray(text.tensor_proto).item().decode()
    assert json.loads(text.strip("`"))["num_steps"] == STEPS

    provider = MultiplexerDataProvider(multiplexer, str(finished_run))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=range(4),
        aggregation_type=api_pb2.AGGREGATION_AVG,
        slice_size=9,
        col_params=[{"hparam": "optim.ema_decay"}, {"metric": {"tag": "2_eval/psnr"}}],
    )
    handler = list_session_groups.Handler(RequestContext(), context, "", request)
    (group,) = handler.run().session_groups
    assert group.hparams["optim.ema_decay"].number_value == 0.8
    found = {value.name.tag: value for value in group.metric_values}
    assert 3 < found["2_eval/psnr"].value < 50
    assert found["2_eval/psnr"].training_step == STEPS


def test_wandb_has_one_run_of_a_resumed_one(run_module, tmp_path):
    """Without its server: the numbers, pictures and config lie in the workdir."""
    offline = {"WANDB_MODE": "offline", **QUICK_FLAGS, "EPSILON_VAE_SILENCE_SECONDS": "0.2"}
    offline["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "cache")
    workdir = tmp_path / "run"
    for num_steps in (1, 2):
        more = (*FLOW_ALONE, f"--config.num_steps={num_steps}", "--logger=wandb")
        out, err = finish(run_module("epsilon_vae.main", *flags(workdir, *more), **offline))
        assert "W&B: offline; to send it: wandb sync " in out
        assert num_steps > 1 or any(line.startswith("compiling, ") for line in err.splitlines())
        assert all(line.startswith(("compiling, ", "at work, ")) for line in err.splitlines())
    files = sorted(workdir.glob("wandb/offline-run-*/*.wandb"))
    name = (workdir / "wandb_id.txt").read_text()
    assert len(files) == 2 and all(file.name == f"run-{name}.wandb" for file in files)
    for word in (b"1_loss/flow", b"2_eval/psnr", b"3_lr/autoencoder", b"optim.ema_decay"):
        assert all(word in file.read_bytes() for file in files)
    assert list(workdir.glob("wandb/*/files/media/images/samples*.png"))
    assert (workdir / "metrics.csv").exists() and list(workdir.glob("events.out.tfevents.*"))


def test_wandb_without_a_key_is_refused_before_the_first_step(run_module, tmp_path):
    environment = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_API_KEY": ""}
    arguments = flags(tmp_path / "run", *FLOW_ALONE, "--logger=wandb")
    process = run_module("epsilon_vae.main", *arguments, **environment, **QUICK_FLAGS)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "step 1" not in out
    assert len(err.splitlines()) == 1 and "epsilon_vae: W&B does not start: " in err


def test_wandb_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(WandbError, match=r"wandb is not installed; pip install -e '.\[wandb\]'"):
        check_is_installed()
