"""The class-conditional DiT in other projects' names and layouts: its public code's, diffusers'.

https://github.com/facebookresearch/DiT/blob/main/models.py, and `DiTTransformer2DModel`. Ours is
`models.dit.ClassDiT`, which computes what the public code does; diffusers' network, of the same
weights, has time embeddings of slightly other frequencies. Pure NumPy, as `layouts`.
"""

import math
import re
from collections.abc import Container, Mapping

import numpy as np

from epsilon_vae.pretrained.layouts import DIFFUSERS, DIT, Arrays, Layout, check_shapes

# Positions are computed; a file may hold them too.
_POSITIONS = ("pos_embed", "pos_embed.pos_embed")
# Each block of diffusers' has the embeddings; ours are those of the first.
_EMBEDDINGS = r"transformer_blocks\.(\d+)\.norm1\.emb\."


def detect(names: Container[str]) -> Layout:
    """The layout that weights of such names have.

    Raises:
      ValueError: neither.
    """
    marks = {"x_embedder.proj.weight": DIT, "pos_embed.proj.weight": DIFFUSERS}
    found = [layout for name, layout in marks.items() if name in names]
    if not found:
        known = ", ".join(f"{name} ({layout.title})" for name, layout in marks.items())
        raise ValueError(f"not a DiT: it has none of {known}")
    return found[0]


def state_dict(layout: Layout, params: Arrays, patch: int) -> dict[str, np.ndarray]:
    """The state dict of a DiT; views of `params`.

    A convolution takes the patches there: its kernel is our dense one, whose inputs are the patch's
    rows, columns and channels. Its embeddings are those of diffusers' first block alone.

    Args:
      layout: `DIT` or `DIFFUSERS`.
      params: by path, contiguous.
      patch: the network's.
    """
    params = dict(params)
    [path] = [path for path in params if path.endswith("patch/kernel")]
    params[path] = params[path].reshape(patch, patch, -1, params[path].shape[-1])
    return layout.network_state_dict("dit", params)


def parameters(
    layout: Layout, state: Arrays, *, shapes: Mapping[str, tuple[int, ...]], patch: int
) -> dict[str, np.ndarray]:
    """A DiT's parameters, float32, from its state dict.

    Args:
      layout: `DIT` or `DIFFUSERS`.
      state: by name.
      shapes: of our parameters, by path.
      patch: the network's.

    Raises:
      ValueError: weights are missing, unknown or of another shape, and the message names some; or
        positions, or diffusers' embeddings, are not what DiT's are.
    """
    for name in _POSITIONS:
        if name in state:
            _check_positions(name, state[name])
    kept = {name: x for name, x in _without_copies(state).items() if name not in _POSITIONS}
    params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    views = state_dict(layout, params, patch)
    check_shapes(kept, views)
    for name, view in views.items():
        view[...] = kept[name]
    return params


def _without_copies(state: Arrays) -> dict[str, np.ndarray]:
    """The state without the embeddings of diffusers' later blocks, which must be the first's."""
    kept = {}
    for name, array in state.items():
        found = re.match(_EMBEDDINGS, name)
        if not found or found[1] == "0":
            kept[name] = array
            continue
        first = re.sub(r"\.\d+\.", ".0.", name, count=1)
        if first not in state or not np.array_equal(array, state[first]):
            raise ValueError(f"{name} is not {first}: DiT has one embedding for all blocks")
    return kept


def _check_positions(name: str, found: np.ndarray) -> None:
    """Raises `ValueError` unless `[1, N, D]` are `models.dit.sincos_positions` of a square."""
    if found.ndim != 3:
        raise ValueError(f"{name} {found.shape}: not [1, N, D]")
    side, features = math.isqrt(found.shape[1]), found.shape[2]
    frequencies = 10000.0 ** (-np.arange(features // 4) / (features // 4))
    angles = np.arange(side)[:, None] * frequencies
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    expected = np.concatenate([np.tile(line, (side, 1)), np.repeat(line, side, axis=0)], axis=-1)
    # Half precision rounds by less than 1e-3.
    if found.shape != (1, *expected.shape) or not np.allclose(
        found[0].astype(np.float64), expected, rtol=0, atol=1e-3
    ):
        raise ValueError(f"{name} {found.shape}: not DiT's sines and cosines of a square")
