"""Fixtures that files of tests share."""

import os
import tempfile
from pathlib import Path

import jax
import pytest

from tests import micro
from tests.costs import Costs, recorded_seconds
from tests.helpers import NUM_IMAGES, PROFILE, Training, flags, make_training, write_images
from tests.processes import ForkServer, finish


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help="end with CPU seconds by file of tests")


def pytest_configure(config: pytest.Config) -> None:
    # Commands share compiled programs with each other, not with those of the user.
    jax.config.update("jax_enable_compilation_cache", False)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs = tempfile.TemporaryDirectory()
        os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
        config.add_cleanup(programs.cleanup)
    if config.getoption("costs"):
        config.pluginmanager.register(Costs(config))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that took longest come first, so that all workers end at about one time."""
    seconds = recorded_seconds()
    items.sort(key=lambda item: -seconds.get(item.location[0], 0))


@pytest.fixture
def small_config():
    """All losses on; compiled in seconds."""
    return micro.get_config()


@pytest.fixture(scope="session")
def training() -> Training:
    """The small config's step; not donating, so that tests may share its state."""
    return make_training(micro.get_config())


@pytest.fixture(scope="session")
def run_module():
    """Starts `python -m MODULE ARGUMENTS…` from the repository root, without the imports' time."""
    server = ForkServer()
    yield server.run
    server.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of 32 px crops of photos, in two classes."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, NUM_IMAGES)
    return folder


@pytest.fixture(scope="session")
def finished_run_and_output(tmp_path_factory, run_module) -> tuple[Path, str]:
    """A run of `STEPS` steps in one go: its workdir, not to be written to; what it printed."""
    workdir = tmp_path_factory.mktemp("finished_run")
    out, _ = finish(run_module("epsilon_vae.main", *flags(workdir, *PROFILE)))
    return workdir, out


@pytest.fixture(scope="session")
def finished_run(finished_run_and_output) -> Path:
    """Workdir of a run of `STEPS` steps in one go; not to be written to."""
    return finished_run_and_output[0]
