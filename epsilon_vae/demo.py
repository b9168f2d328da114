"""A page to try a model on: `python -m epsilon_vae.demo`.

The model is that of a run, `--workdir=DIR`, or one that comes with the package.
Drop a photo, choose steps and seed, and see original, reconstruction and difference. The page is
served to this machine alone. Exit codes: 0 done; 1 failed; 2 the command cannot run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epy

from epsilon_vae.command_line import UsageError, be_silent, exit_codes, parse_flags
from epsilon_vae.errors import reason
from epsilon_vae.model_flags import ModelFlags

with epy.lazy_imports():  # of what takes seconds, and is not needed for flags
    from epsilon_vae.inference import demo_page

MODEL = ModelFlags()
PORT = flags.DEFINE_integer("port", 7860, "Where the page is, on this machine.", 1, 65535)


def check_flags() -> None:
    """Raises `UsageError` for flags that cannot be used, or without gradio."""
    MODEL.check()
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the page needs gradio; pip install -e '.[demo]'")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def main(argv: Sequence[str]) -> None:
    """Restores, and serves until Ctrl-C."""
    del argv
    logging.set_verbosity(logging.ERROR)
    with exit_codes():
        vae = MODEL.open()
        page = demo_page.build_page(vae, vae.origin)
        print(f"http://127.0.0.1:{PORT.value} (Ctrl-C ends it)", flush=True)
        be_silent()
        try:
            page.launch(
                server_name="127.0.0.1", server_port=PORT.value, quiet=True, footer_links=[]
            )
        except OSError as error:
            raise UsageError(
                f"--port={PORT.value}: cannot be served on ({reason(error)}); name another"
            ) from error


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
