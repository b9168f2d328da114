"""Third-party weights: `python -m epsilon_vae.pretrained [--get=NAME [--from=FILE]]`.

Without flags, lists all: what for, whether they are here and are the known ones, where they come
from, their licence and SHA-256. `--get` downloads, or takes FILE, checks and converts. Exit codes:
0 done; 2 something named on the command line cannot be used, or the download failed.
"""

from collections.abc import Sequence

from absl import app, flags

from epsilon_vae.command_line import UsageError, exit_codes, one_line, parse_flags
from epsilon_vae.pretrained.registry import REGISTRY
from epsilon_vae.pretrained.weights import Weights, WeightsError

GET = flags.DEFINE_enum("get", None, list(REGISTRY), "Weights to download, check and convert.")
FROM = flags.DEFINE_string("from", None, "Copy of their file to take instead of downloading.")


def describe(weights: Weights) -> str:
    """A paragraph on one file of weights; it is read and checked for it."""
    try:
        weights.load()
        state = str(weights.find())
    except (WeightsError, OSError) as error:
        state = one_line(error)
    return "\n".join(
        [
            f"{weights.name}: for {weights.purpose}",
            f"  file     {state}",
            f"  source   {weights.source}",
            f"  licence  {weights.licence}",
            f"  SHA-256  {weights.sha256}",
        ]
    )


def check_flags() -> None:
    """Raises `UsageError` for --from alone."""
    if FROM.value is not None and GET.value is None:
        raise UsageError("--from is for --get=NAME: say which weights the file holds")


def main(argv: Sequence[str]) -> None:
    """Lists all weights, or gets some."""
    del argv
    if GET.value is None:
        print("\n\n".join(map(describe, REGISTRY.values())))
        return
    with exit_codes(OSError):
        print(f"{GET.value}: {REGISTRY[GET.value].get(FROM.value)}")


if __name__ == "__main__":
    app.run(main, flags_parser=lambda argv: parse_flags(argv, check_flags))
