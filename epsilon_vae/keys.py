"""The table of config keys: type, allowed values and description of each.

An autoencoder's config has the keys of `SHARED` and `AUTOENCODER`, a latent diffusion model's those
of `SHARED` and `LATENT_DIFFUSION`. `config.py` checks configs by this table, and
`python -m docs.config_reference` writes docs/reference/config.md from it. The defaults are in
configs/common.py and configs/latent_diffusion.py.
"""

import dataclasses
import math
from collections.abc import Callable

DDPM_STEPS = 1000  # of Ho et al. 2020
# Scores that `checkpoint.keep_best` may name; lpips is that of `loss.lpips_net`.
BEST = ("psnr", "ssim", "lpips")


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
      type: of its values; a float may be given as an int.
      allows: whether a value of that type is allowed.
      expected: which values are allowed, in words.
      description: what the key does, with units, and what 0 or '' means.
      choices: the allowed values, where they are a few names.
    """

    type: type
    allows: Callable[[object], bool]
    expected: str
    description: str
    choices: tuple[str, ...] = ()


def _one_of(choices: tuple[str, ...], description: str) -> Key:
    expected = "one of " + ", ".join(choices)
    return Key(str, lambda value: value in choices, expected, description, choices)


def _integer(minimum: int, description: str) -> Key:
    expected = f"a whole number of at least {minimum}"
    return Key(int, lambda value: value >= minimum, expected, description)


def _number(minimum: float, description: str, below: float = math.inf) -> Key:
    expected = f"a number of at least {minimum:g}"
    expected += f" and below {below:g}" if below < math.inf else ""
    return Key(float, lambda value: minimum <= value < below, expected, description)


def _positive(description: str) -> Key:
    return Key(float, lambda value: 0 < value < math.inf, "a positive number", description)


def _real(description: str) -> Key:
    return Key(float, math.isfinite, "a finite number", description)


def _text(description: str) -> Key:
    return Key(str, lambda value: True, "text", description)


def _flag(description: str) -> Key:
    return Key(bool, lambda value: True, "True or False", description)


def _axis(description: str) -> Key:
    expected = "-1 (what is left) or at least 1"
    return Key(int, lambda value: value == -1 or value >= 1, expected, description)


SHARED: dict[str, Key] = {
    "seed": Key(
        int,
        lambda value: 0 <= value < 2**32,
        "a whole number of at least 0, below 2**32",
        "Seed of the initial weights, of the images' order and crops, and of training's noise.",
    ),
    "num_steps": _integer(
        1, "Training steps in all, those before a resumption included; the paper has 1,000,000."
    ),
    "batch_size": _integer(1, "Images a step, on all devices together; the paper has 256."),
    "dtype": _one_of(
        ("float32", "bfloat16"),
        "Type that the networks and LPIPS compute in. Parameters, statistics of norms, losses, the "
        "discriminator and the optimizers are float32 in both.",
    ),
    "init_from": _text(
        "Workdir of another run, whose newest checkpoint gives a new run its first weights, as "
        "`init` says; `''` starts from random weights. A run that is resumed does not look at it."
    ),
    "data.path": _text(
        "Folder, or URL as `gs://BUCKET/FOLDER`: of the splits, `data.train_split` and "
        "`data.val_split`, for folder and array_record, or for folder of images without splits; "
        "TFDS's data_dir for tfds, where `''` is TFDS's own; what `epsilon_vae.encode` wrote for "
        "latents. Photos need none."
    ),
    "data.tfds_name": _text(
        "Name of the TFDS set, as imagenet2012 or coco/2017; `''` where `data.source` is not tfds."
    ),
    "data.train_split": Key(
        str,
        lambda value: value != "",
        "a split",
        "Name of the split that is trained on: a subfolder, as train2017, the beginning of shards' "
        "names, or TFDS's name for it. Photos and latents have train.",
    ),
    "data.held_out": Key(
        float,
        lambda value: 0 < value < 1,
        "a number between 0 and 1",
        "Share of the images that is not trained on, and that evaluations measure, where "
        "`data.source` is folder and `data.path` has no splits: those whose names have the least "
        "hashes, which do not depend on the other images. At least one image.",
    ),
    "data.resolution": _integer(
        32,
        "Height and width of the training images in pixels; of a latent diffusion model those of "
        "the images that it generates. Which multiples will do depends on the networks.",
    ),
    "data.crop": _one_of(
        ("random", "random_resized"),
        "Training crop. random (paper): a square as large as the short side, anywhere along the "
        "long one. random_resized: a box of 8 to 100 % of the area, of shape 3:4 to 4:3. Latents "
        "were cropped when they were encoded.",
    ),
    "data.flip": _flag(
        "Mirrors each training image with a probability of 1/2; of latents, takes those of the "
        "mirror image."
    ),
    "data.permute_colors": _flag(
        "Exchanges red, green and blue of each training image by chance, all six orders alike: for "
        "sets of so few photos that some colors are rare. The paper does not. Not for latents."
    ),
    "data.reduced_jpeg": _flag(
        "Decodes a JPEG at a lower scale where its training crop allows it: faster, and not quite "
        "the same pixels."
    ),
    "data.convert_profiles": _flag(
        "Converts colors to sRGB where an image has an ICC profile; else they are taken for "
        "sRGB's. `epsilon_vae.encode` does as the autoencoder's run, other commands have keys and "
        "flags of their own."
    ),
    "data.max_pixels": _integer(
        1, "Pixels of the largest image that is read: a small file may be unpacked to very many."
    ),
    "data.workers": _integer(
        0,
        "Worker processes that load training images, for each process of the run; 0 loads in "
        "threads of the run itself. Latents are always loaded in threads.",
    ),
    "data.on_bad_record": _one_of(
        ("raise", "skip"),
        "What to do about an image that cannot be read or decoded: end the run, or leave it out "
        "and train on the next one. Latents that cannot be read always end the run.",
    ),
    "data.max_bad_share": Key(
        float,
        lambda value: 0 < value < 1,
        "a number between 0 and 1",
        "Share of a data set's images that `data.on_bad_record` = skip may leave out; with more "
        "the run ends.",
    ),
    "model.remat": _one_of(
        ("none", "convs", "full"),
        "What each block keeps of its forward pass for the backward pass: everything, what its "
        "convolutions and matrix products gave, or only its input. Later choices take less memory "
        "and compute more again.",
    ),
    "flow.nfe": _integer(
        1,
        "Network evaluations (NFE) of a decoding or a generation: in the evaluations during "
        "training, and by default in `epsilon_vae.generate`. With `flow.process` = direct it is 1.",
    ),
    "optim.lr": _positive("Adam's learning rate after the warm-up; the paper has 1e-4."),
    "optim.b1": _number(0, "Adam's β1; 0 in the paper's autoencoders.", below=1),
    "optim.b2": _number(0, "Adam's β2; 0.999 in the paper.", below=1),
    "optim.warmup_steps": _integer(
        0,
        "Steps in which the learning rate rises linearly to `optim.lr`; 0 has no warm-up. 5000 in "
        "the paper's autoencoders.",
    ),
    "optim.clip_norm": _number(
        0,
        "Global norm that gradients are clipped to, the discriminator's apart from the others'; 0 "
        "does not clip.",
    ),
    "optim.ema_decay": _number(
        0,
        "Decay a step of the moving average (EMA) of the weights, which every evaluation uses; 0 "
        "is the weights themselves. At first it is (1 + step) / (10 + step), if that is less. The "
        "paper has 0.999 for autoencoders and 0.9999 for latent diffusion.",
        below=1,
    ),
    "optim.accumulate": _integer(
        1,
        "Parts that each batch is worked through in, one after the other, to save memory; their "
        "gradients are averaged. 1 takes it in one piece.",
    ),
    "mesh.data": _axis("Devices along the mesh's axis `data`, over which a batch is split."),
    "mesh.fsdp": _axis(
        "Devices along the axis `fsdp`, over which a batch is split too, and parameters, EMA and "
        "optimizer state are sharded; 1 does not shard them."
    ),
    "mesh.space": _axis(
        "Devices along the axis `space`, which share the rows of each image; 1 does not split "
        "images."
    ),
    "checkpoint.every_steps": _integer(1, "Steps from one checkpoint to the next."),
    "checkpoint.keep": _integer(1, "How many of the newest checkpoints are kept."),
    "checkpoint.keep_best": _one_of(
        ("none", *BEST),
        "Score by which the best checkpoint is kept too; a step that is evaluated as the best so "
        "far is saved. none keeps none, as latent diffusion models do, which have no scores.",
    ),
    "checkpoint.permanent_every_steps": _integer(
        0, "Checkpoints at multiples of so many steps are never removed; 0 keeps none of them."
    ),
    "eval.every_steps": _integer(
        1, "Steps from one evaluation to the next; the last step is always evaluated."
    ),
    "eval.num_images": _integer(
        1,
        "Of an autoencoder: held-out images that an evaluation measures, evenly spaced over the "
        "split, or all if it has no more. Of a latent diffusion model: samples in its picture.",
    ),
    "log.every_steps": _integer(
        1, "Steps from one row of metrics.csv to the next; a row has means over these steps."
    ),
    "profile.start_step": _integer(
        0, "First step of a trace for TensorBoard or XProf, written into the workdir; 0 has none."
    ),
    "profile.num_steps": _integer(1, "How many steps that trace has."),
}

AUTOENCODER: dict[str, Key] = {
    "init.encoder": _one_of(
        ("ema", "raw", "none"),
        "Which of `init_from`'s encoder weights to take: the moving average, the trained weights "
        "themselves, or none, which starts from random ones.",
    ),
    "init.decoder": _one_of(("ema", "raw", "none"), "The same of the decoder."),
    "init.discriminator": _one_of(
        ("raw", "none"),
        "The same of the discriminator, which has no moving average. It is new in any case where "
        "that run was made of a file of weights.",
    ),
    "data.source": _one_of(
        ("photos", "folder", "array_record", "tfds"),
        "Where images come from: 17 photos that are installed with scikit-image and scikit-learn, "
        "folders of image files, shards of `epsilon_vae.data.prepare`, or a set of TensorFlow "
        "Datasets.",
    ),
    "data.val_split": Key(
        str,
        lambda value: value != "",
        "a split",
        "Name of the held-out split, which evaluations measure: a subfolder, or TFDS's name for "
        "it, often validation. Photos have val.",
    ),
    "model.encoder.name": _one_of(
        (
            *("sd", "vqgan", "lite", "omni", "small", "tiny", "micro"),
            *("litevae_s", "litevae_b", "litevae_m", "litevae_l"),
        ),
        "Encoder. sd (paper): latent-diffusion's. lite: the paper's of 6 M parameters. vqgan (also "
        "LlamaGen's), omni and `litevae_…`: those of VQGAN, OmniTokenizer and LiteVAE. small, tiny "
        "and micro: ours, for CPUs, laptops and tests.",
    ),
    "model.encoder.f": _integer(
        4,
        "Downsampling factor: pixels a latent along each side. sd has 8, 16, 32; vqgan 8, 16; lite "
        "4, 8, 16, 32; tiny and micro 4, 8; omni, small and `litevae_…` 8.",
    ),
    "model.encoder.n_z": _integer(
        1,
        "Latent channels; with the bottleneck vq the width of a code. The paper has 4 with sd and "
        "8 with lite.",
    ),
    "model.encoder.frozen": _flag(
        "Trains the decoder alone, on the encoder that `init_from` and `init.encoder` give."
    ),
    "model.bottleneck.name": _one_of(
        ("none", "kl", "vq"),
        "What latents are. none (paper): the encoder's output. kl: Gaussian, as SD-VAE's. vq: "
        "codes of a learned codebook, as VQGAN's.",
    ),
    "model.bottleneck.kl_weight": _number(
        0,
        "Weight of kl's divergence, which is summed over an image's latents and divided by the "
        "number of its values; 1e-6 is latent-diffusion's.",
    ),
    "model.bottleneck.kl_convs": _flag(
        "Whether kl has latent-diffusion's 1×1 convolutions, behind the encoder (quant_conv) and, "
        "in the decoders sd, vqgan and asym, before the decoder (post_quant_conv)."
    ),
    "model.bottleneck.scaling_factor": _number(
        0,
        "What diffusion models multiply latents by, less `shift_factor`, as diffusers' files say: "
        "`encode` and latent diffusion normalize by it. 0 is by the latents' own mean and "
        "deviation.",
    ),
    "model.bottleneck.shift_factor": _real(
        "What diffusion models subtract from latents before they multiply by `scaling_factor`."
    ),
    "model.bottleneck.vq_channels": _integer(
        1,
        "Channels of the encoder's output with vq, before a 1×1 convolution to a code's width. In "
        "the decoders sd, vqgan and asym another one leads from the codes to as many channels.",
    ),
    "model.bottleneck.num_codes": _integer(2, "Codes in vq's codebook."),
    "model.bottleneck.commitment": _number(
        0, "Weight of vq's term that holds the encoder to the codes; the codes' own term has 1."
    ),
    "model.bottleneck.normalized_codes": _flag(
        "Whether vq's codes, and what is compared with them, are scaled to length 1, as LlamaGen's."
    ),
    "model.bottleneck.legacy_commitment": _flag(
        "Puts vq's `commitment` on the codes' term instead, as VQGAN's public weights were trained."
    ),
    "model.decoder.name": _one_of(
        ("adm", "ddpm", "dit", "vae", "sd", "vqgan", "asym", "omni"),
        "Decoder. adm (paper), ddpm (the UNet that the paper's ablation starts from) and dit "
        "denoise. vae (the paper's baseline), sd, vqgan, asym and omni give the image itself, with "
        "`flow.process` = direct.",
    ),
    "model.decoder.size": _one_of(
        ("micro", "tiny", "small", "s", "b", "m", "l", "xl", "h"),
        "Size of the decoder; micro, tiny and small are ours, and all have micro and tiny. adm and "
        "ddpm: small, b, m, l, xl, h. vae: b, m, l, xl, h. dit: s, b, l, xl. asym: l, xl. sd, "
        "vqgan and omni: m, their only published one.",
    ),
    "model.decoder.patch": Key(
        int, lambda value: value in (4, 8), "4 or 8", "Side of dit's tokens in pixels."
    ),
    "model.decoder.conditioning": _one_of(
        ("concat", "adagn"),
        "How adm sees the latents. concat (paper): upsampled, as further input channels. adagn: "
        "resized, as scales and shifts of its norms. Other decoders have concat.",
    ),
    "model.decoder.input_skip": _flag(
        "Adds the noisy input to a denoising decoder's output, times a learned gain of t: for "
        "networks too small to copy noise. The paper does not."
    ),
    "model.discriminator.name": _one_of(
        ("patch", "residual"),
        "Discriminator. patch (paper): VQGAN's PatchGAN, with AdaGN of t instead of its norms. "
        "residual: ours, residual blocks without norms.",
    ),
    "model.discriminator.context_scale": _number(
        0,
        "Factor of x_t at the discriminator's input; below 1 its noise hides less of the detail "
        "that real and fake differ in. 1 in the paper.",
    ),
    "model.discriminator.channels": Key(
        int,
        lambda value: value >= 16 and value % 16 == 0,
        "a multiple of 16",
        "Channels of the discriminator's first layer; later ones have up to 8 times as many. 64 is "
        "VQGAN's.",
    ),
    "flow.process": _one_of(
        ("rectified_flow", "ddpm", "direct"),
        "What the decoder learns. rectified_flow (paper): the velocity from data to noise. ddpm: "
        "the noise, at 1000 discrete steps. direct: the image itself, without noise.",
    ),
    "flow.gamma": _positive(
        "γ, the scale of the data in x_t = (1 - t) γ x0 + t noise, of rectified_flow; decoded "
        "images are divided by it. 0.6 in the paper at 128 px, 1 switches it off."
    ),
    "flow.normalization": _one_of(
        ("sample", "analytic"),
        "Standard deviation that rectified_flow divides the decoder's noisy input by: measured of "
        "each image, or worked out from t and γ for data of deviation 0.5 (ours).",
    ),
    "flow.time_sampling": _one_of(
        ("logit_normal", "logit_normal_start", "uniform"),
        "Distribution of the training times t. logit_normal (paper): sigmoid of a standard normal. "
        "logit_normal_start (ours): the same, but a twentieth of them is 1, where decoding starts.",
    ),
    "flow.spacing": _one_of(
        ("reversed_log", "uniform"),
        "Times of the decoding steps: denser near noise (paper, Eq. 12), or equidistant.",
    ),
    "loss.distance": _one_of(
        ("l2", "l1"),
        "Mean squared (paper) or mean absolute error of what the decoder predicts: velocity, noise "
        "or image.",
    ),
    "loss.lpips_weight": _number(
        0, "Weight of LPIPS on the estimate of x0; 0 leaves it out. 0.5 in the paper."
    ),
    "loss.lpips_net": _one_of(
        ("vgg16", "alexnet"),
        "Network of LPIPS, in the loss and in the evaluations during training; vgg16 in the paper, "
        "alexnet is much faster.",
    ),
    "loss.adv_weight": _number(
        0,
        "Weight of the GAN's term in the autoencoder's loss; 0 leaves out term and discriminator. "
        "0.5 in the paper.",
    ),
    "loss.adaptive_weight": _flag(
        "Multiplies that weight by VQGAN's ratio, at most 10,000: the norm of the other losses' "
        "gradient over that of the GAN's, at the decoder's last layer. The paper does not."
    ),
    "loss.adv_start_step": _integer(
        0, "Steps before the GAN's term enters the autoencoder's loss; 0 in the paper."
    ),
    "loss.adv_ramp_steps": _integer(
        0, "Steps in which that term then rises to its weight; 0, as in the paper, is at once."
    ),
    "loss.disc_start_step": _integer(
        0, "Steps before the discriminator is trained; 0 in the paper."
    ),
    "loss.gan": _one_of(
        ("non_saturating", "hinge", "relativistic"),
        "Loss of the GAN: the paper's, VQGAN's, or R3GAN's, which compares real and fake in pairs.",
    ),
    "loss.matching": _one_of(
        ("trajectory", "standard", "step"),
        "What the discriminator compares. trajectory (paper): x0 and its estimate, beside x_t. "
        "standard: the same without x_t and t. step: an earlier point of the path, true and "
        "predicted, beside x_t.",
    ),
    "loss.r1_weight": _number(
        0,
        "Weight of the R1 penalty in the discriminator's loss, StyleGAN2's gamma; 0 has none. The "
        "paper has the penalty and does not tell its weight.",
    ),
    "loss.r1_every_steps": _integer(
        1, "Steps from one R1 penalty to the next; it is weighted by as many."
    ),
    "optim.discriminator_lr": _positive("`optim.lr` of the discriminator."),
    "optim.discriminator_b1": _number(0, "`optim.b1` of the discriminator.", below=1),
    "optim.discriminator_b2": _number(0, "`optim.b2` of the discriminator.", below=1),
    "optim.discriminator_warmup_steps": _integer(0, "`optim.warmup_steps` of the discriminator."),
    "eval.crop": _one_of(
        ("center_crop_adm", "center_crop_bicubic"),
        "Crop of the held-out images: as guided-diffusion's, halved by averaging first, or as "
        "torchvision's, resized at once.",
    ),
}

LATENT_DIFFUSION: dict[str, Key] = {
    "init.latent_diffusion": _one_of(
        ("ema", "raw"),
        "Which of `init_from`'s weights to take: the moving average, or the trained weights "
        "themselves.",
    ),
    "data.source": _one_of(
        ("latents", "photos", "folder", "array_record", "tfds"),
        "What it is trained on: latents that `epsilon_vae.encode` wrote, or images as an "
        "autoencoder's, which are encoded on the fly.",
    ),
    "autoencoder.workdir": _text(
        "Workdir of the autoencoder's run: encodes images, and decodes the samples of the picture. "
        "With `''` the data must be latents, and there is no picture."
    ),
    "autoencoder.f": _integer(1, "The autoencoder's downsampling factor, as `model.encoder.f`."),
    "autoencoder.n_z": _integer(1, "The autoencoder's latent channels, as `model.encoder.n_z`."),
    "autoencoder.nfe": _integer(
        1, "Network evaluations of the autoencoder's decoder for the picture."
    ),
    "model.latent_diffusion.size": _one_of(
        ("micro", "tiny", "s", "b", "l", "xl"),
        "Size of the DiT; xl in the paper. micro and tiny are ours.",
    ),
    "model.latent_diffusion.patch": Key(
        int,
        lambda value: value in (1, 2, 4),
        "1, 2 or 4",
        "Side of the DiT's tokens in latents; 2 in the paper.",
    ),
    "model.latent_diffusion.num_classes": _integer(
        0, "Classes that images are generated of, as many as the data has; 0 takes no labels."
    ),
    "model.latent_diffusion.learned_sigma": _flag(
        "Whether the DiT gives a variance too, which ddpm's sampling uses: for DiT's public "
        "weights. Training has no loss for it; the paper has no such loss either."
    ),
    "flow.process": _one_of(
        ("ddpm", "rectified_flow"),
        "What the DiT learns. ddpm (paper): the noise, at 1000 discrete steps. rectified_flow: the "
        "velocity from data to noise.",
    ),
    "flow.time_sampling": _one_of(
        ("whole_steps", "logit_normal", "uniform"),
        "Distribution of the training times t. whole_steps: ddpm's discrete ones, all alike. The "
        "others are rectified_flow's; logit_normal is the sigmoid of a standard normal.",
    ),
    "flow.spacing": _one_of(
        ("respaced", "uniform"),
        "Times of the sampling steps: evenly spaced ones of ddpm's 1000, or, of rectified_flow, "
        "equidistant.",
    ),
    "loss.label_dropout": _number(
        0,
        "Share of the labels that training drops, so that guidance is possible; 0 drops none.",
        below=1,
    ),
    "eval.guidance": _number(
        0, "Scale of classifier-free guidance in the picture of samples; 1 is no guidance."
    ),
}

# What a run of an earlier version, whose config has no such key, was trained with.
SINCE: dict[str, object] = {
    "checkpoint.keep_best": "none",
    "data.permute_colors": False,
    "data.convert_profiles": False,
    "data.max_pixels": 89_478_485,
    "data.train_split": "train",
    "data.held_out": 0.05,
    "model.bottleneck.scaling_factor": 0.0,
    "model.bottleneck.shift_factor": 0.0,
    "model.decoder.input_skip": False,
}
# What keys, and groups of keys, are called in configs of earlier versions.
RENAMED: dict[str, str] = {
    "init.generator": "init.latent_diffusion",
    "model.generator": "model.latent_diffusion",
}


def current_name(key: str) -> str:
    """The name that a key of an earlier version has now; other keys as they are."""
    for old, new in RENAMED.items():
        if f"{key}.".startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def goodness(metric: str, score: float) -> float:
    """A number that is the larger, the better a score is."""
    return score if is_larger_better(metric) else -score


def is_larger_better(metric: str) -> bool:
    """Whether a larger value of a metric is the better one; all others are distances, or times."""
    return metric.startswith(("psnr", "ssim", "inception_score", "precision", "recall"))
