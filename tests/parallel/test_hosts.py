"""Processes that start together: which are expected, and what happens if not all come."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from epsilon_vae.parallel import hosts
from tests.processes import ROOT, free_port, start_together


def start(address=None, count=None, index=None) -> None:
    hosts.start(
        coordinator_address=address,
        num_processes=count,
        process_id=index,
        startup_timeout_seconds=5,
        heartbeat_timeout_seconds=10,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("host:1", None, None), "num_processes and process_id missing"),
        ((None, 2, 0), "coordinator_address missing"),
        (("host", 2, 0), "coordinator_address=host: expected HOST:PORT"),
        (("host:1", 2, 2), "process_id=2: with num_processes=2, expected a whole number from"),
        (("host:1", 2, -1), "process_id=-1"),
        (("host:1", 0, 0), "num_processes=0"),
        (("host:99999", 2, 0), "port 99999 cannot be listened at"),
    ],
)
def test_contradictory_flags_are_named(arguments, words):
    with pytest.raises(hosts.HostsError) as error:
        start(*arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_port_that_is_taken_is_named():
    with http.server.HTTPServer(("", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
        with pytest.raises(hosts.HostsError, match=f"port {port} cannot be listened at here"):
            start(f"localhost:{port}", 2, 0)


def one_line(process, code: int = 2) -> str:
    """What a process said that ended with this code."""
    _, err = process.communicate(timeout=100)
    assert process.returncode == code and "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("epsilon_vae: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(("count", "ids"), [(3, (0, 1)), (2, (1, 1))])
def test_processes_that_do_not_come_together_say_so_in_time(run_module, tmp_path, count, ids):
    """One too few; and two with the same id, without a process 0."""
    arguments = ("--config=tests/micro.py", f"--workdir={tmp_path}", "--startup_timeout_seconds=3")
    for process in start_together(run_module, *arguments, count=count, ids=ids):
        line = one_line(process, code=1)
        assert f"not all of the {count} processes came together within 3 s" in line
        assert "reaches 127.0.0.1:" in line


def test_other_flags_on_one_process_are_refused(run_module, tmp_path):
    arguments = ("--config=tests/micro.py", f"--workdir={tmp_path}")
    for process in start_together(
        run_module, *arguments, each=lambda index: (f"--config.seed={index}",)
    ):
        assert "config: not the same for all processes" in one_line(process)


def test_folders_that_are_not_shared_are_refused(run_module, tmp_path):
    processes = start_together(
        run_module, "--config=tests/micro.py", each=lambda index: (f"--workdir={tmp_path}/{index}",)
    )
    for index, process in enumerate(processes):
        words = f"epsilon_vae: {tmp_path}/{index}: not the same folder for all processes"
        assert words in one_line(process)


class Metadata(http.server.BaseHTTPRequestHandler):
    """What the metadata server of a Cloud TPU host answers."""

    attributes: dict[str, str] = {}

    def do_GET(self):  # noqa: N802, the base class's name
        prefix, _, name = self.path.rpartition("/")
        known = prefix == "/computeMetadata/v1/instance/attributes" and name in self.attributes
        self.send_response(200 if known and self.headers["Metadata-Flavor"] == "Google" else 404)
        self.end_headers()
        self.wfile.write(self.attributes.get(name, "").encode())

    def log_message(self, *arguments):
        """Nothing: requests need not be told."""


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
GKE = {"TPU_WORKER_HOSTNAMES": "127.0.0.1,127.0.0.1", "TPU_WORKER_ID": "0"}


@pytest.fixture
def metadata(monkeypatch):
    """Starts the stand-in; returns what it answers, to be filled."""
    monkeypatch.setattr(Metadata, "attributes", {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        yield Metadata.attributes
        server.shutdown()


@pytest.mark.parametrize(
    ("environment", "attributes", "count"),
    [
        ({}, {}, 1),
        (SLURM, {}, 2),
        (SLURM | {"SLURM_NTASKS": "1"}, {}, 1),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}, {}, 1),  # within salloc, not srun
        (GKE, {}, 2),
        (GKE | {"MEGASCALE_NUM_SLICES": "4"}, {}, 8),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, {}, 1),
        ({}, {"worker-network-endpoints": "a:b:10.0.0.1,a:b:10.0.0.2"}, 2),
        (
            {},
            {"worker-network-endpoints": "h1,h2", "tpu-env": "X: '1'\nMEGASCALE_NUM_SLICES: '2'"},
            4,
        ),
        ({"TPU_SKIP_MDS_QUERY": "1"}, {"worker-network-endpoints": "a,b"}, 1),
    ],
)
def test_launchers_say_how_many(monkeypatch, metadata, environment, attributes, count):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    metadata.update(attributes)
    assert hosts.expected_processes() == count


START = """
import jax
from epsilon_vae.parallel import hosts
hosts.start(
    coordinator_address=None,
    num_processes=None,
    process_id=None,
    startup_timeout_seconds=60,
    heartbeat_timeout_seconds=60,
)
print(jax.process_index(), "of", jax.process_count(), hosts.total(jax.process_index() + 1))
"""


@pytest.mark.parametrize(
    ("environment", "index"), [(SLURM, "SLURM_PROCID"), (GKE, "TPU_WORKER_ID"), ({}, "NONE")]
)
def test_recognised_launchers_need_no_flags(metadata, environment, index):
    """By JAX's own detection, with what the launchers set in the environment; and nothing alone."""
    count = 2 if environment else 1
    metadata["tpu-env"] = "ACCELERATOR_TYPE: 'v5litepod-16'\n"
    common = {"JAX_COORDINATOR_PORT": str(free_port()), "JAX_PLATFORMS": "cpu"}
    if environment is GKE:
        common["JAX_FORCE_TPU_INIT"] = "1"  # as if there were chips
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START],
            cwd=ROOT,
            env=os.environ | common | environment | {index: str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    for i, process in enumerate(processes):
        out, _ = process.communicate(timeout=100)
        total = count * (count + 1) // 2
        assert process.returncode == 0 and f"{i} of {count} {total}" in out
