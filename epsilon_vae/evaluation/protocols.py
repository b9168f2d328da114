"""Protocols: all that a number depends on besides the model and the images, under a name.

`--protocol=paper` takes one as it is, `--protocol=paper,crop=bicubic,num_images=5000` with changes.
Every result carries the whole protocol, changes marked in its name.
"""

import dataclasses

from epsilon_vae.data.decode import MAX_PIXELS, ImageDecoding
from epsilon_vae.errors import UserError
from epsilon_vae.evaluation.features import DESCRIPTIONS, FEATURES
from epsilon_vae.pretrained.registry import REGISTRY

CROPS = {"adm": "center_crop_adm", "bicubic": "center_crop_bicubic"}
_NOISE = "_noise"
PROFILES = ("srgb", "ignored")
SPACINGS = ("run", "reversed_log", "uniform")
MAX_GROUP = 1024

# What is the same in all protocols, in the words that results carry.
FIXED = {
    "rounding": "reconstructions clipped to [-1, 1] and rounded to uint8",
    "reference": "the same crops of the originals, uint8",
    "psnr": "dB, peak 1 on [0, 1], mean over images",
    "ssim": "Gaussian 11 x 11, sigma 1.5, data range 1 on [0, 1], RGB, mean over images",
    "ssim_range2": "as ssim, with data range 2 in its constants on images in [0, 1]",
    "lpips": "version 0.1, linear layers, on [-1, 1] at full size, mean over images",
    "decode_seconds": "wall time of decoding a batch, transfers included, over its images, all "
    "devices together; median and quartiles over batches, without a first decoding, which "
    "compiles",
    "frechet": "float64, unbiased covariance",
    "noise": "decoding starts from the same noise, the seed's, for all images",
    "latent_noise_unit": "standard deviation of each channel, over the latents of 256 images, "
    "evenly spaced, or of all",
}


class ProtocolError(UserError):
    """A protocol that does not exist or cannot be had; the message says what would do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How reconstructions are measured.

    Attributes:
      name: with the changes that were asked for.
      crop: 'adm' (guided-diffusion's) or 'bicubic' (torchvision's on PIL images).
      features: names in `features.FEATURES` that Fréchet distances are computed over.
      weights: of a run, 'ema' or 'raw'.
      spacing: of the decoder's times, 'reversed_log', 'uniform', or 'run': as the run's config.
      seed: of the noise that decoding starts from.
      num_images: evenly spaced over the data; 0 for all.
      profiles: of image files, their ICC profiles: colors are converted to 'srgb', or they are
        'ignored'.
      max_pixels: of an image file.
      group_size: images that a device encodes and decodes together. Another number changes last
        digits, and 1 is slow on a GPU; results of earlier versions, which do not say, are of 1.
      latent_noise: each tau adds a Fréchet distance of images decoded from `z + tau std(z) n`, n
        normal: how well a decoder bears the errors of a latent diffusion model.
    """

    name: str
    crop: str = "adm"
    features: tuple[str, ...] = ("inception",)
    weights: str = "ema"
    spacing: str = "run"
    seed: int = 0
    num_images: int = 0
    latent_noise: tuple[float, ...] = ()
    profiles: str = "srgb"
    max_pixels: int = MAX_PIXELS
    group_size: int = 8

    def decoding(self) -> ImageDecoding:
        """How image files are decoded."""
        is_srgb = self.profiles == "srgb"
        return ImageDecoding(convert_profiles=is_srgb, max_pixels=self.max_pixels)

    def stamp(self) -> dict:
        """All of it, what its features are, and what is the same in all protocols, for JSON."""
        features = {distance_name(name): DESCRIPTIONS[name] for name in self.features}
        return dataclasses.asdict(self) | FIXED | features


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="paper"),
        # For where Inception's weights are not to be had.
        Protocol(name="local", features=("alexnet", "vgg16")),
    )
}


def noisy(features: str, tau: float) -> str:
    """The name of features of images that are decoded from noisy latents."""
    return f"{features}{_NOISE}{tau:g}"


def noiseless(features: str) -> str:
    """The name of the originals' features that `noisy` ones are compared with."""
    return features.partition(_NOISE)[0]


def distance_name(features: str, fid: str = "rfid") -> str:
    """`fid` over Inception's features; over others 'fd_' and their name, which is no FID.

    Of `noisy` features with their end, as `rfid_noise0.1`.
    """
    name, *noise = features.partition(_NOISE)
    return "".join([fid if name == "inception" else f"fd_{name}", *noise])


def parse(text: str) -> Protocol:
    """The protocol of `NAME` or `NAME,KEY=VALUE,…`; several features are joined by '+'.

    Raises:
      ProtocolError: no such name, key or value.
    """
    name, *changes = text.split(",")
    if name not in PROTOCOLS:
        raise ProtocolError(f"protocol {text}: no protocol {name!r}; {_or(PROTOCOLS)} would do")
    values = {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in _READERS:
            raise ProtocolError(f"protocol {text}: no key {key!r}; {_or(_READERS)} would do")
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise ProtocolError(f"protocol {text}: {key} = {value!r}: {error}") from None
    return dataclasses.replace(PROTOCOLS[name], name=text, **values)


def check_features(protocol: Protocol) -> None:
    """Raises `ProtocolError` where weights of its features are not here."""
    for name in protocol.features:
        if REGISTRY[name].find() is None:
            raise ProtocolError(
                f"protocol {protocol.name}: no weights of {name} here; get them "
                f"({REGISTRY[name].remedy}), or take the protocol local, whose features come with "
                "the package and give no FID"
            )


def _one_of(*choices: str):
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError(f"expected {_or(choices)}")
        return value

    return read


def _features(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split("+")))
    if unknown := [name for name in names if name not in FEATURES]:
        raise ValueError(f"no features {unknown[0]!r}; {_or(FEATURES)}, or several joined by +")
    return names


def _latent_noise(value: str) -> tuple[float, ...]:
    try:
        levels = tuple(dict.fromkeys(map(float, value.split("+"))))
    except ValueError:
        levels = (0.0,)
    if not all(0 < level < float("inf") for level in levels):
        raise ValueError("expected numbers above 0, as 0.1+0.3")
    return levels


def _whole_number(value: str) -> int:
    if not value.isdecimal() or int(value) >= 2**32:
        raise ValueError("expected a whole number of at least 0, below 2**32")
    return int(value)


def _group_size(value: str) -> int:
    if not 0 < (size := _whole_number(value)) <= MAX_GROUP:
        raise ValueError(f"expected 1 to {MAX_GROUP}")
    return size


_READERS = {
    "crop": _one_of(*CROPS),
    "features": _features,
    "weights": _one_of("ema", "raw"),
    "spacing": _one_of(*SPACINGS),
    "seed": _whole_number,
    "num_images": _whole_number,
    "latent_noise": _latent_noise,
    "profiles": _one_of(*PROFILES),
    "max_pixels": _whole_number,
    "group_size": _group_size,
}


def _or(names) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
