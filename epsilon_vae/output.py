"""Files that a run or a command writes: whole or not at all, and seen by all processes."""

import time
from collections.abc import Callable

from etils import epath

# Network disks may show a new file to another host after some seconds only.
SEEN_TIMEOUT_SECONDS = 20


def write_whole(path: epath.Path, content: bytes) -> None:
    """Writes a file of which readers see the old content or the new, never a part."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def is_seen(is_there: Callable[[], bool]) -> bool:
    """Whether what another process has written is there, if need be after a while."""
    deadline = time.monotonic() + SEEN_TIMEOUT_SECONDS
    while not is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True
