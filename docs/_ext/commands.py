"""The `command` directive: a command's own `--help`, taken when the site is built."""

import os
import re
import subprocess
import sys

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# Where flags are defined: of the command itself absl prints the path, of others the module's name.
DEFINED_IN = re.compile(r"^(?:/\S+\.py|epsilon_vae\.\S+):$", re.MULTILINE)


def read_help(module: str) -> str:
    """What `python -m MODULE --help` prints."""
    environment = os.environ | {"COLUMNS": "88", "LINES": "50"}
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    if done.returncode:
        raise RuntimeError(f"python -m {module} --help: {done.stderr or done.stdout}")
    return done.stdout


class Command(SphinxDirective):
    """`{command} epsilon_vae.main`: its description, and its flags."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        module = self.arguments[0]
        text = read_help(module).partition("\nTry --helpfull")[0]
        description, _, flags = text.partition("\nflags:\n")
        paragraphs = nodes.container()
        lines = description.strip().splitlines()
        self.state.nested_parse(StringList(lines, module), self.content_offset, paragraphs)
        literal = [_literal(DEFINED_IN.sub("", flags))] if flags else []
        return [*paragraphs.children, *literal]


def _literal(flags: str) -> nodes.literal_block:
    lines = flags.strip("\n").splitlines()
    text = "\n".join(line.removeprefix("  ") for line in lines)
    return nodes.literal_block(text, text, language="text")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
