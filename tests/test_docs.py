"""The pages name files, config keys and commands that exist."""

import importlib.util
import pathlib
import re

import pytest

from epsilon_vae import model_flags
from epsilon_vae.config import ANY
from tests.processes import ROOT

PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "launch")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if "_build" not in path.parts
)
HOST_FLAGS = ("coordinator_address", "num_processes", "process_id")
EXAMPLES = ("loss.distance_weight", "epsilon_vae/models/pixel.py")  # of docs/development.md


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path):
    text = path.read_text()
    prose = re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose):
        assert (path.parent / link).exists(), link
    for key in re.findall(r"\bconfig\.([a-z]\w*(?:\.[a-z]\w*)+)", text):
        known = {*ANY, *EXAMPLES}
        assert key in known or any(other.startswith(f"{key}.") for other in known), key
    for module, arguments in re.findall(r"python -m ([\w.]*\w)((?:[^\n`]|\\\n)*)", text):
        if module.startswith(("epsilon_vae", "benchmarks")):
            spec = importlib.util.find_spec(module)
            if spec.submodule_search_locations:
                spec = importlib.util.find_spec(f"{module}.__main__")
            source = pathlib.Path(spec.origin).read_text()
            if "ModelFlags()" in source:
                source += pathlib.Path(model_flags.__file__).read_text()
            for flag in re.findall(r"(?<!\S)--([a-z_]+)", arguments):
                assert f'"{flag}"' in source or f'"--{flag}"' in source or flag in HOST_FLAGS, flag
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).exists(), config
    for file in re.findall(r"`((?:epsilon_vae|tests|examples|launch)/[\w/.]+)`", text):
        assert (ROOT / file).exists() or file in EXAMPLES, file
