"""Data sets of the Hugging Face Hub, brought into its cache on this machine."""

import glob
import os
import re
from collections.abc import Callable

from epsilon_vae.data.decode import DataError
from epsilon_vae.errors import reason

HUB = "hf://"
_ADDRESS = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<inside>.+))?"
)


def download(url: str, choose: Callable[[list[str]], list[str]]) -> list[str]:
    """Downloads files of a data set, and returns their paths.

    They stay in the Hub's cache (HF_HOME); what is there is not downloaded again.

    Args:
      url: `hf://datasets/OWNER/NAME`, with `@REVISION` and the path of a folder or file if need be.
      choose: those to take, of the names in that folder.

    Raises:
      DataError: another address, no such data set or no right to it, no network, or
        huggingface_hub is not installed.
    """
    address = _ADDRESS.fullmatch(url.rstrip("/").replace("%2F", "/"))
    if not address:
        raise DataError(f"{url}: no data set; name one as hf://datasets/OWNER/NAME")
    try:
        import huggingface_hub  # an extra
    except ImportError as error:
        raise DataError(
            f"{url}: needs huggingface_hub, pip install -e '.[hub]'; or download it by other means "
            "and name the folder"
        ) from error
    repo, revision, inside = address.group("repo", "revision", "inside")
    try:
        found = huggingface_hub.HfApi().dataset_info(repo, revision=revision)
        names = [file.rfilename for file in found.siblings]
        within = [name for name in names if not inside or name.startswith(f"{inside}/")]
        chosen = [inside] if inside in names else choose(within)
        patterns = [glob.escape(name) for name in chosen]
        folder = huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=found.sha, allow_patterns=patterns
        )
    except DataError:
        raise
    except Exception as error:  # the library's and the network's, of many kinds
        raise DataError(
            f"{url}: cannot be downloaded ({reason(error)}); if it asks for terms to be accepted, "
            "accept them on its page and run hf auth login"
        ) from error
    return [os.path.join(folder, name) for name in chosen]
