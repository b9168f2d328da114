"""Our Flax networks against the PyTorch packages that the field trusts: diffusers and lpips.

Needs `pip install torch torchvision diffusers lpips`; skipped without. The golden tests of
`tests/models` and `tests/losses` compare with what `make_golden` stored of the same references.
"""
