"""The pages name files, config keys and commands that exist."""

import importlib.util
import re

import pytest

from epsilon_vae.config import ANY
from tests.processes import ROOT

PAGES = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "launch")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if "_build" not in path.parts
)
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
    for module in re.findall(r"python -m ((?:epsilon_vae|benchmarks)[\w.]*\w)", text):
        assert importlib.util.find_spec(module), module
    for config in re.findall(r"configs/\w+\.py", text):
        assert (ROOT / config).exists(), config
    for file in re.findall(r"`((?:epsilon_vae|tests|examples|launch)/[\w/.]+)`", text):
        assert (ROOT / file).exists() or file in EXAMPLES, file
