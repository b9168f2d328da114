"""Stand-in for the executables that launch/ calls: it takes the name under which it is called.

Everything is in the folder $STAND_IN: `calls.jsonl` records each argv, `cloud.json` is what the
cloud is like, `worker0` … are the workers' homes, in which `gcloud … ssh --command` runs for real.
Hundreds of these start in a run of the tests: so it imports little.
"""

import fcntl
import json
import os
import signal
import sys

HERE = os.environ["STAND_IN"]
NAME = os.path.basename(sys.argv[0])
ARGUMENTS = sys.argv[1:]


def option(name):
    return next((a.split("=", 1)[1] for a in ARGUMENTS if a.startswith(f"--{name}=")), None)


class Cloud:
    """cloud.json, locked for as long as it is open; written back at the end."""

    def __enter__(self):
        self.file = open(f"{HERE}/cloud.json", "r+")  # noqa: SIM115
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.state = json.load(self.file)
        return self.state

    def __exit__(self, *_):
        self.file.seek(0)
        self.file.truncate()
        json.dump(self.state, self.file)
        self.file.close()


def next_of(key):
    """The next of a list in cloud.json; its last one stays."""
    with Cloud() as cloud:
        return cloud[key].pop(0) if len(cloud[key]) > 1 else cloud[key][0]


def bash(home, command):
    path = f"{HERE}/worker_bin:{os.environ['PATH']}"
    os.chdir(home)
    environment = os.environ | {"HOME": home, "PATH": path}
    return os.spawnvpe(os.P_WAIT, "bash", ["bash", "-c", command], environment)


def gcloud():
    noun, verb = ARGUMENTS[2:4]
    with Cloud() as cloud:
        homes = [f"{HERE}/worker{k}" for k in range(cloud["workers"])]
        if verb == "create":
            if cloud["create_fails"]:
                sys.exit("RESOURCE_EXHAUSTED: no quota")
            cloud |= {"states": cloud["states_of_new"], "nodes": "READY"}
            for home in homes:
                bash(home, "find . -mindepth 1 -delete")
        elif verb == "delete":
            cloud |= {"states": [""], "nodes": ""}
        nodes = cloud["nodes"]
    if verb == "ssh":
        if nodes != "READY":
            sys.exit(255)
        workers = homes if option("worker") == "all" else [homes[int(option("worker"))]]
        command = " ".join(
            option("command").split(" ")
        )  # as gcloud takes it apart and ssh joins it
        codes = [bash(home, command) for home in workers]
        sys.exit(next((code for code in codes if code), 0))
    elif verb == "scp":
        source, target = os.path.abspath(ARGUMENTS[4]), ARGUMENTS[5].split(":")[1]
        for home in homes:
            bash(home, f"cp '{source}' {target}")
    elif verb == "list" and noun == "tpu-vm":
        print(nodes)
    elif verb == "list":
        state = next_of("states")
        if state == "no answer":
            sys.exit(1)
        print(state)


def python():
    """Training: does what `trainings` in cloud.json says next."""
    will = next_of("trainings")
    if will == "runs":
        signal.pause()
    elif will == "preempted":
        with Cloud() as cloud:
            cloud |= {"states": ["SUSPENDING", "SUSPENDED"], "nodes": ""}
        sys.exit(75)
    elif will == "node preempted":
        with Cloud() as cloud:
            cloud["nodes"] = "PREEMPTED"
        sys.exit(75)
    sys.exit(will)


def install(path):
    """Another stand-in."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.lexists(path):
        os.symlink(f"{HERE}/stand_in", path)


def main():
    if NAME == "python":  # what is recorded as started can be stopped
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with open(f"{HERE}/calls.jsonl", "a") as file:
        file.write(json.dumps([NAME, *ARGUMENTS]) + "\n")
    if NAME == "gcloud":
        gcloud()
    elif NAME == "python3":  # -m pip install uv
        install(f"{os.environ['HOME']}/.local/bin/uv")
    elif NAME == "uv" and ARGUMENTS[0] == "venv":
        install(f"{ARGUMENTS[-1]}/bin/python")
    elif NAME == "python":
        python()
    elif NAME == "kubectl" and "--filename=-" in ARGUMENTS:
        with open(f"{HERE}/manifest.yaml", "w") as file:
            file.write(sys.stdin.read())
    elif NAME in ("srun", "scontrol"):
        sys.exit(next_of(NAME))


main()
