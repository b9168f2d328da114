"""Pickles that hold arrays and nothing else."""

import pickle
from collections.abc import Mapping
from typing import Any


class ArrayUnpickler(pickle.Unpickler):
    """Refuses every global but those that its format needs, so that no code of a file can run.

    Attributes:
      allowed: (module, name) as a pickle asks for it → what it gets; each format's subclass has
        its own.
    """

    allowed: Mapping[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for `module.name`.

        Raises:
          UnpicklingError: it is none of `allowed`.
        """
        try:
            return self.allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused: it asks for {module}.{name}, and may hold nothing but arrays"
            ) from None
