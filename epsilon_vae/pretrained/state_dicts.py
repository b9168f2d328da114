"""Which of a file's names are a network's, and in which layout.

Checkpoints wrap state dicts in dictionaries, and names in prefixes. Both are one thing here: names
with dots, in which an autoencoder's begin somewhere.
"""

import collections
import os
import re
from collections.abc import Iterable, Sequence

from epsilon_vae.names import printable
from epsilon_vae.pretrained.layouts import DIT, LAYOUTS, Arrays, Layout

# Modules that hold a network and nothing of their own: DataParallel's, torch.compile's, FSDP's.
_WRAPPERS = r"(?:^|(?<=\.))(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
_AUTOENCODERS = "|".join(re.escape(layout.mark) for layout in LAYOUTS)
_DITS = rf"{re.escape(DIT.mark)}|pos_embed\.proj\."
_AVERAGE = r"(^|_)ema(_|$)"  # in a part of a prefix
# All that an autoencoder has; buffers of training are none of it.
_AUTOENCODER = (
    r"(encoder|decoder|quant_conv|post_quant_conv)\."
    r"|quantize\.(?!codebook_used$|embedding\.(cluster_size|embed_avg)$)"
)
# Networks that are taken for autoencoders of these layouts, by a name that they have.
_OTHERS = {
    r"(en|de)coder\.layers\.\d+\.(weight|conv\.)": "AutoencoderTiny (TAESD)",
    r"\d+\.(weight|conv\.0\.weight)": "TAESD, or half of it",
    r"encoder\.(down_blocks\.\d+\.\d+|stages\.\d+\.op_list)\.": "AutoencoderDC (DC-AE)",
    r"(.*\.)?lora_\w+|.*\.lora_(A|B|up|down)\.": "a LoRA, a change to a network",
    r"(.*\.)?(x_embedder|pos_embed)\.proj\.": "a DiT, which configs/dit_xl_2.py takes",
    r"(.*\.)?(diffusion_model\.|time_embed(ding)?\.)": "a UNet, of a latent diffusion model",
    r"(.*\.)?text_model\.": "a text encoder",
}
KNOWN = "diffusers' AutoencoderKL, VQModel and AsymmetricAutoencoderKL, and their originals"
_MAX_NAME = 60


def select(names: Iterable[str]) -> dict[str, str]:
    """The names of an autoencoder's weights in a file, or of a DiT's, each with its own name.

    An average of weights comes before the weights. Where there is neither network, all names are
    returned as they are.

    Raises:
      ValueError: two names that become one.
    """
    names = list(names)
    plain = {name: re.sub(_WRAPPERS, "", name) for name in names}
    for marks, own in ((_AUTOENCODERS, _AUTOENCODER), (_DITS, "")):
        found = re.compile(rf"((?:.*?\.)?)({marks})")
        prefixes = [match[1] for name in plain.values() if (match := found.match(name))]
        if prefixes:
            prefix = max(dict.fromkeys(prefixes), key=_averages)
            chosen = {
                name: short.removeprefix(prefix)
                for name, short in plain.items()
                if short.startswith(prefix) and re.match(own, short.removeprefix(prefix))
            }
            if len(set(chosen.values())) < len(chosen):
                twice = collections.Counter(chosen.values()).most_common(1)[0][0]
                raise ValueError(f"it has {twice[:_MAX_NAME]} twice, under several names")
            return chosen
    return {name: name for name in names}


def _averages(prefix: str) -> int:
    return sum(bool(re.search(_AVERAGE, part)) for part in prefix.split("."))


def outline(names: Sequence[str], taken: Iterable[str] = ()) -> str:
    """Names in words, by what tells them from each other or from those that are `taken`.

    As 'discriminator.* (14), loss.* (1)'.
    """
    parts = [name.split(".") for name in names]
    shared = [name.split(".") for name in taken] or [os.path.commonprefix(parts)]
    heads = {tuple(x[:i]) for x in shared for i in range(1, len(x) + 1)}
    counts: collections.Counter[str] = collections.Counter()
    for x in parts:
        depth = next((i for i in range(1, len(x)) if tuple(x[:i]) not in heads), len(x))
        counts[".".join(x[:depth])[:_MAX_NAME] + (".*" if depth < len(x) else "")] += 1
    words = [f"{name} ({count})" if name.endswith(".*") else name for name, count in counts.items()]
    more = f" and {len(words) - 6} more" if len(words) > 6 else ""
    return printable(", ".join(words[:6]) + more)


def detect(state: Arrays) -> Layout:
    """The layout of an autoencoder's state dict.

    Raises:
      ValueError: it is none that is known, and the message says what it is, or has.
    """
    if any(array.ndim == 5 for array in state.values()):
        raise ValueError(f"is a 3-D VAE, for video; take one of images: {KNOWN}")
    for pattern, title in _OTHERS.items():
        if any(re.match(pattern, name) for name in state):
            raise ValueError(f"is {title}; take an autoencoder's weights: {KNOWN}")
    for layout in LAYOUTS:
        if any(name.startswith(layout.mark) for name in state):
            return layout
    known = ", ".join(f"{layout.mark}* ({layout.title})" for layout in LAYOUTS)
    raise ValueError(
        f"none of the known autoencoders: it has {outline(list(state))}, and none of {known}"
    )
