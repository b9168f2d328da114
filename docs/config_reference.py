"""Writes docs/reference/config.md, the page of all config keys: `python -m docs.config_reference`.

Types, values and descriptions are those of `epsilon_vae.keys`, defaults those of configs/common.py
and configs/latent_diffusion.py.
"""

import pathlib

from configs import common, latent_diffusion
from epsilon_vae import keys
from epsilon_vae.config import flatten

PAGE = pathlib.Path(__file__).parent / "reference" / "config.md"
INTRODUCTION = """\
<!-- Written by `python -m docs.config_reference` from epsilon_vae/keys.py and configs/. -->

# Config keys

Every config is a Python file in `configs/` whose `get_config()` returns an
`ml_collections.ConfigDict`. Any value can be overridden on the command line, as in
`--config.optim.lr=3e-4`. `--dry_run` prints the resolved config:

```bash
python -m epsilon_vae.main --config=configs/tiny.py --dry_run
```

Defaults are those of `configs/common.py` for autoencoders, and of `configs/latent_diffusion.py` for
latent diffusion models; other configs change some of them. A key that does not exist, or a value
that is not allowed, ends a command with exit code 2 and one line that names the key. In the config
of an older run, keys that have another name now are read under that name.
"""
AUTOENCODER, LATENT_DIFFUSION = "autoencoders", "latent diffusion models"
# Keys and defaults by what the config is of.
KINDS = {
    AUTOENCODER: (keys.SHARED | keys.AUTOENCODER, flatten(common.get_config())),
    LATENT_DIFFUSION: (keys.SHARED | keys.LATENT_DIFFUSION, flatten(latent_diffusion.get_config())),
}


def make_page() -> str:
    """Returns the page: a table for each group of keys."""
    names = keys.SHARED | keys.AUTOENCODER | keys.LATENT_DIFFUSION
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return "\n".join([INTRODUCTION, *(_section(group, groups[group]) for group in sorted(groups))])


def _section(group: str, names: list[str]) -> str:
    kinds = {kind for name in names for kind, (known, _) in KINDS.items() if name in known}
    is_mixed = len(kinds) > 1
    rows = [row for name in names for row in _rows(name, names_kind=is_mixed)]
    lines = [f"## config.{group}" if group else "## config", ""]
    lines += [] if is_mixed else [f"Only {kinds.pop()} have these keys.", ""]
    lines += ["| key | values | default | description |", "|---|---|---|---|"]
    return "\n".join([*lines, *rows, ""])


def _rows(name: str, *, names_kind: bool) -> list[str]:
    """Returns a key's row; or two, where it means another thing in each kind of config."""
    found: dict[keys.Key, list[str]] = {}
    for kind, (known, _) in KINDS.items():
        if name in known:
            found.setdefault(known[name], []).append(kind)
    rows = []
    for key, kinds in found.items():
        values = ", ".join(f"`{choice}`" for choice in key.choices) or key.expected
        defaults = [f"`{KINDS[kind][1][name]}`" for kind in kinds]
        defaults = [default if default != "``" else "`''`" for default in defaults]
        default = defaults[0]
        if len(set(defaults)) > 1:
            default += f"; of {LATENT_DIFFUSION} {defaults[1]}"
        description = key.description
        if names_kind and len(kinds) == 1:
            description = f"{'Of' if len(found) > 1 else 'Only'} {kinds[0]}. {description}"
        rows.append(f"| `{name}` | `{key.type.__name__}`: {values} | {default} | {description} |")
    return rows


if __name__ == "__main__":
    PAGE.write_text(make_page())
