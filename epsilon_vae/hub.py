"""Repositories on the Hugging Face Hub, by `huggingface_hub`, which is an extra."""

import dataclasses
import glob
import pathlib
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from epsilon_vae.errors import UserError, reason

PREFIX = "hf://"
_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


class HubError(UserError):
    """What the Hub does not give or take, and why."""


def is_name(name: str) -> bool:
    """Whether a repository could have this name, as OWNER/NAME."""
    return re.fullmatch(_NAME, name) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of the Hub.

    Attributes:
      name: OWNER/NAME.
      kind: 'model' or 'dataset'.
      revision: a branch, tag or commit; None for the default branch.
    """

    name: str
    kind: str = "model"
    revision: str | None = None

    def files(self) -> tuple[list[str], "Repository"]:
        """The names of its files, and the same repository at the commit that has them.

        Raises:
          HubError: there is none, or no right to it, no network, or no package.
        """
        api = self._package().HfApi()
        known = {"repo_type": self.kind, "revision": self.revision}
        found = self._attempt(api.repo_info, self.name, **known)
        names = [file.rfilename for file in found.siblings or ()]
        return names, dataclasses.replace(self, revision=found.sha)

    def download(self, names: Iterable[str]) -> pathlib.Path:
        """Fetches files into the Hub's cache (`HF_HOME`), unless they are there.

        Returns:
          The folder that has them.

        Raises:
          HubError: as `files`'.
        """
        fetch = self._package().snapshot_download
        known = {"repo_type": self.kind, "revision": self.revision}
        patterns = [glob.escape(name) for name in names]
        return pathlib.Path(self._attempt(fetch, self.name, allow_patterns=patterns, **known))

    def upload(
        self, files: Mapping[str, bytes], *, message: str, private: bool, overwrite: bool
    ) -> str:
        """Makes the repository, unless it is there, and commits the files to its default branch.

        Args:
          files: by name.
          message: of the commit.
          private: nobody else sees a repository that is made.
          overwrite: files of these names may be there.

        Returns:
          Its address.

        Raises:
          HubError: they are there, the Hub refuses, or no network or package.
        """
        package = self._package()
        api, known = package.HfApi(), {"repo_type": self.kind}
        address = self._attempt(api.create_repo, self.name, private=private, exist_ok=True, **known)
        there = set(self._attempt(api.list_repo_files, self.name, **known)) & set(files)
        if there and not overwrite:
            raise HubError(
                f"{self.name}: has {', '.join(sorted(there))} already; name another, or replace "
                "them with overwrite=True"
            )
        adding = [
            package.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in files.items()
        ]
        self._attempt(api.create_commit, self.name, adding, commit_message=message, **known)
        return str(address)

    def _package(self) -> types.ModuleType:
        try:
            import huggingface_hub
        except ImportError as error:
            raise HubError(
                f"{self.name}: taken for a repository of the Hugging Face Hub, which needs "
                f"huggingface_hub; pip install -e '.[hub]', or {self._by_hand()}"
            ) from error
        return huggingface_hub

    def _by_hand(self) -> str:
        kind = "" if self.kind == "model" else f" --repo-type {self.kind}"
        return f"elsewhere `hf download {self.name}{kind} --local-dir DIR`, and name DIR"

    def _attempt(self, function: Callable, *arguments: Any, **more: Any) -> Any:
        try:
            return function(*arguments, **more)
        except Exception as error:  # of HTTP, of the Hub, of files
            raise HubError(
                f"{self.name}: taken for a repository of the Hugging Face Hub, which refused or "
                f"was not reached ({reason(error)}); check the name and the network, accept on its "
                "page what it asks for, and run `hf auth login` for what is not public; or "
                f"{self._by_hand()}"
            ) from error
