"""Says that a command is at work, where it would print nothing for long."""

import contextlib
import os
import re
import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from epsilon_vae.errors import UserError

# JAX reports it when it starts to compile a program, and when it has.
_COMPILING = "/jax/core/compile/backend_compile_duration"


class Beat(contextlib.AbstractContextManager):
    """Prints a line on stderr for every 20 seconds (`EPSILON_VAE_SILENCE_SECONDS`) of silence.

    Of several processes, the first alone does.
    """

    def __init__(self):
        self._last = self._last_other = time.monotonic()
        self._is_compiling = self._listens = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self):
        text = os.environ.get("EPSILON_VAE_SILENCE_SECONDS", "20")
        interval = float(text) if re.fullmatch(r"\d{1,9}(\.\d+)?", text) else 0
        if not interval:
            raise UserError(f"EPSILON_VAE_SILENCE_SECONDS={text}: expected a positive number")
        self._listen()
        self._thread = threading.Thread(target=self._watch, args=(interval,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self.end()

    def end(self) -> None:
        """Prints nothing from now on."""
        self._ended.set()

    def heard(self) -> None:
        """Something was printed."""
        self._last = time.monotonic()
        if threading.current_thread() is not self._thread:
            self._last_other = self._last

    def _listen(self) -> None:
        """Has JAX say when it compiles, once the command has imported it."""
        monitoring = sys.modules.get("jax.monitoring")
        if not self._listens and hasattr(monitoring, "register_event_duration_secs_listener"):
            monitoring.register_scalar_listener(self._on_start)
            monitoring.register_event_duration_secs_listener(self._on_end)
            self._listens = True

    def _on_start(self, event: str, value: float, **kwargs: Any) -> None:
        if event == _COMPILING:
            self._is_compiling = True

    def _on_end(self, event: str, duration: float, **kwargs: Any) -> None:
        if event == _COMPILING:
            self._is_compiling = False

    def _watch(self, interval: float) -> None:
        while not self._ended.wait(interval / 20):
            self._listen()
            now = time.monotonic()
            if now - self._last < interval or not _is_first():
                continue
            what = "compiling" if self._is_compiling else "at work"
            line = f"{what}, {now - self._last_other:.0f} s since the last line"
            tqdm.write(line, file=sys.stderr)  # above a bar, if there is one
            self.heard()


def _is_first() -> bool:
    """Whether this is process 0; a command that is alone is not made to look for devices."""
    jax = sys.modules.get("jax")
    distributed = getattr(jax, "distributed", None)  # None while it is imported
    return not (distributed and distributed.is_initialized()) or jax.process_index() == 0
