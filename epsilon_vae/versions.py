"""Records what a number was made with: git commit, packages, devices."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "scipy",
    "pillow",
)


def versions() -> dict[str, str]:
    """Git commit ('+' marks uncommitted changes), Python, packages and devices of this process.

    An image of launch/Dockerfile has no git, and its commit in GIT_COMMIT.
    """
    here = pathlib.Path(__file__).parent
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(
            git, cwd=here, capture_output=True, text=True, check=False
        ).stdout
    except OSError:  # a container without git
        described = ""
    found = {
        "git_commit": described.strip() or os.environ.get("GIT_COMMIT", "unknown"),
        "python": platform.python_version(),
    }
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | devices() | packages


def devices() -> dict[str, str]:
    """'devices' of all processes, their number and kind, and how many 'processes' there are."""
    return {
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "processes": str(jax.process_count()),
    }
