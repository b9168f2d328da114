"""Configuration of the Sphinx site: `sphinx-build -W --keep-going -b html docs docs/_build/html`.

The build needs no network. It imports the package for the API pages, runs the commands with
`--help` for the command-line page, and executes the notebook of the first tutorial.
"""

import os
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS / "_ext"), str(ROOT)]
# Child processes, and the notebook's kernel, find the package and this Python, and use the CPU.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])
os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

project = "ε-VAE"
author = "The ε-VAE authors"
extensions = [
    "commands",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "ε-VAE"
html_math_renderer = "mathml"
html_show_copyright = False
smartquotes = False  # they would make dashes of flags in help texts

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3
# Outputs are kept in _build and used again until a cell changes; CI starts without any.
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
# Single backticks in docstrings are code.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


def escape(app, what, name, obj, options, lines) -> None:
    """Escapes what reStructuredText would take for markup in plain docstrings, but for code."""
    del app, what, name, obj, options
    code = re.compile(r"(`[^`]*`)")
    text = code.split("\n".join(lines))
    text[::2] = [re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", words) for words in text[::2]]
    lines[:] = "".join(text).split("\n")


def setup(app) -> None:
    """Escapes docstrings before napoleon reads them."""
    app.connect("autodoc-process-docstring", escape, priority=400)
