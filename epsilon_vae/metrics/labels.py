"""What people read in place of the names that metrics have in files, and which way is better."""

from epsilon_vae.keys import is_larger_better

_NETWORKS = {
    "alexnet": "AlexNet",
    "vgg16": "VGG16",
    "efficientnet_lite0": "EfficientNet-Lite0",
    "inception": "Inception",
}
# By the names of results.json and of metrics.csv (there after `eval/`), in the order of tables.
LABELS = {
    "rfid": "rFID",
    "fid": "FID",
    **{f"fd_{name}": f"FD {network}" for name, network in _NETWORKS.items()},
    "inception_score": "Inception score",
    "inception_score_deviation": "Inception score deviation",
    **{f"precision_{name}": f"Precision {network}" for name, network in _NETWORKS.items()},
    **{f"recall_{name}": f"Recall {network}" for name, network in _NETWORKS.items()},
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ssim_range2": "SSIM (range 2)",
    "lpips_vgg16": "LPIPS VGG16",
    "lpips_alexnet": "LPIPS AlexNet",
    "decode_seconds": "Decoding (ms)",
}


def label(name: str) -> str:
    """A metric as tables and axes name it: 'fd_vgg16_noise0.1' → 'FD VGG16, noise 0.1'."""
    name, _, noise = name.partition("_noise")
    words = LABELS.get(name, name)
    return f"{words}, noise {noise}" if noise else words


def heading(name: str) -> str:
    """The label with an arrow to what is better: 'PSNR (dB) ↑'; a deviation has none."""
    arrow = "↑" if is_larger_better(name) else "↓"
    return label(name) if name.endswith("_deviation") else f"{label(name)} {arrow}"
