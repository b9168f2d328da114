"""Fixtures of broken and hostile files."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_limit():
    """256 MiB more than the process has."""

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + 2**28
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return limited()
