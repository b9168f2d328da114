"""Which packages a parity test needs; without them its module is skipped, with the reason."""

import contextlib

import pytest


def require(*packages: str) -> None:
    """Skips the calling test module where torch or one of `packages` is missing.

    A torchvision that was built for another torch counts as missing: diffusers and lpips import
    it, and that raises a RuntimeError. diffusers does without where there is none.
    """
    pytest.importorskip("torch", reason="parity needs torch: pip install torch")
    try:
        with contextlib.suppress(ModuleNotFoundError):
            import torchvision  # noqa: F401
    except RuntimeError as error:
        pytest.skip(f"torchvision does not fit this torch: {error}", allow_module_level=True)
    for package in packages:
        pytest.importorskip(package, reason=f"parity needs {package}: pip install {package}")
