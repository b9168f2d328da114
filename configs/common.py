"""Defaults of every config: the paper's training of ε-VAE where it says, ours where it does not."""

from collections.abc import Callable

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The SD setup: f 8, n_z 4, ADM-M, 128 px, on the embedded photos until a source is named."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_steps = 1_000_000  # paper
    config.batch_size = 256  # paper
    config.dtype = "bfloat16"  # compute; parameters, norms, losses and optimizer are float32
    config.init_from = ""  # workdir of an earlier stage, whose weights to start from
    config.init = ml_collections.ConfigDict()
    config.init.encoder = "ema"  # or "raw", or "none": from the seed
    config.init.decoder = "ema"  # likewise
    config.init.discriminator = "raw"  # or "none"; it has no EMA

    config.data = ml_collections.ConfigDict()
    config.data.source = "photos"  # or folder, array_record, tfds
    config.data.path = ""  # folder of train and val, gs:// too; for tfds its data_dir
    config.data.tfds_name = ""  # as imagenet2012, coco/2017
    config.data.train_split = "train"  # name of the split that is trained on; as train2017
    config.data.val_split = "val"  # name of the held-out split; validation in many TFDS sets
    config.data.held_out = 0.05  # of a folder without splits, by the hash of names
    config.data.resolution = 128  # paper
    config.data.crop = "random"  # paper
    config.data.flip = True  # paper
    config.data.permute_colors = False  # paper; or True, for a handful of photos
    config.data.reduced_jpeg = True  # decode JPEGs at the scale that the crop needs
    config.data.convert_profiles = True  # colors of ICC profiles to sRGB
    config.data.max_pixels = 89_478_485  # of an image file; Pillow's limit
    config.data.workers = 0  # processes that decode; 0 = threads of this one
    config.data.on_bad_record = "raise"  # or skip, up to
    config.data.max_bad_share = 0.001  # of all records

    config.model = ml_collections.ConfigDict()
    # What each block keeps for its backward pass: all, its convolutions' outputs, its input.
    config.model.remat = "none"  # or convs, full: less memory, more FLOPs
    config.model.encoder = ml_collections.ConfigDict()
    config.model.encoder.name = "sd"
    config.model.encoder.f = 8  # paper
    config.model.encoder.n_z = 4  # paper
    config.model.encoder.frozen = False  # True trains the decoder alone, with init_from
    config.model.bottleneck = ml_collections.ConfigDict()
    config.model.bottleneck.name = "none"  # paper; or kl, vq
    config.model.bottleneck.kl_weight = 1e-6  # latent-diffusion's
    config.model.bottleneck.kl_convs = True  # latent-diffusion's quant_conv and post_quant_conv
    config.model.bottleneck.scaling_factor = 0.0  # of latents; 0 = as measured
    config.model.bottleneck.shift_factor = 0.0
    config.model.bottleneck.vq_channels = 256  # between those and encoder and decoder, VQGAN's
    config.model.bottleneck.num_codes = 16384
    config.model.bottleneck.commitment = 0.25
    config.model.bottleneck.normalized_codes = False
    config.model.bottleneck.legacy_commitment = False  # True as VQGAN's weights were trained
    config.model.decoder = ml_collections.ConfigDict()
    config.model.decoder.name = "adm"  # paper
    config.model.decoder.size = "m"
    config.model.decoder.patch = 4  # of dit; or 8
    config.model.decoder.conditioning = "concat"  # paper
    config.model.decoder.input_skip = False  # paper; or True, for networks too small to copy noise

    config.model.discriminator = ml_collections.ConfigDict()
    config.model.discriminator.name = "patch"  # paper: VQGAN's; or residual, without norms
    config.model.discriminator.channels = 64  # VQGAN's
    config.model.discriminator.context_scale = 1.0  # paper; of x_t beside the image

    config.flow = ml_collections.ConfigDict()
    config.flow.process = "rectified_flow"  # paper
    config.flow.gamma = 0.6  # paper, for 128 px
    config.flow.normalization = "sample"
    config.flow.time_sampling = "logit_normal"  # paper
    config.flow.spacing = "reversed_log"  # paper
    config.flow.nfe = 3  # paper

    config.loss = ml_collections.ConfigDict()
    config.loss.distance = "l2"  # paper, of the velocity
    config.loss.lpips_weight = 0.5  # paper
    config.loss.lpips_net = "vgg16"  # paper
    config.loss.adv_weight = 0.5  # paper
    config.loss.adaptive_weight = False  # paper; True multiplies adv_weight by VQGAN's ratio
    config.loss.adv_start_step = 0  # paper; of the term in the autoencoder's loss
    config.loss.adv_ramp_steps = 0  # paper; likewise
    config.loss.disc_start_step = 0  # paper; of the discriminator's own loss
    config.loss.gan = "non_saturating"  # paper; or hinge, relativistic
    config.loss.matching = "trajectory"  # paper
    # Ours, where the paper has R1 and no weight: StyleGAN2's rule, 2e-4 * 128^2 px / batch of 256.
    config.loss.r1_weight = 0.013
    config.loss.r1_every_steps = 1  # ours: every 16th would spoil Adam's second moment

    config.optim = ml_collections.ConfigDict()
    config.optim.lr = 1e-4  # paper
    config.optim.b1 = 0.0  # paper
    config.optim.b2 = 0.999  # paper
    config.optim.warmup_steps = 5000  # paper
    config.optim.discriminator_lr = 1e-4  # paper
    config.optim.discriminator_b1 = 0.0  # paper
    config.optim.discriminator_b2 = 0.999  # paper
    config.optim.discriminator_warmup_steps = 5000  # paper
    config.optim.clip_norm = 0.0  # 0 = off
    config.optim.ema_decay = 0.999  # paper
    config.optim.accumulate = 1

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # what fsdp and space leave
    config.mesh.fsdp = 1
    config.mesh.space = 1

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every_steps = 5000
    config.checkpoint.keep = 2
    config.checkpoint.keep_best = "none"  # or psnr, ssim, lpips
    config.checkpoint.permanent_every_steps = 100_000  # 0 = none

    config.eval = ml_collections.ConfigDict()
    config.eval.every_steps = 5000
    config.eval.num_images = 1000  # evenly spaced over the split; all if it has no more
    config.eval.crop = "center_crop_adm"
    config.log = ml_collections.ConfigDict()
    config.log.every_steps = 100

    config.profile = ml_collections.ConfigDict()
    config.profile.start_step = 0  # first step of a trace for TensorBoard or XProf; 0 = none
    config.profile.num_steps = 4
    return config


def read_arguments(name: str, arguments: str, **defaults: str | int) -> list[str | int]:
    """Values of a config file's arguments, in the order of `defaults`.

    Args:
      name: of the file, for the message.
      arguments: what follows the file's colon, as `m,f=16`; one without a name is the next in the
        order of `defaults`.
      defaults: value of each argument that is not given, of its type.

    Raises:
      ValueError: an argument that the file does not have, one that is given twice, or another type.
    """
    values, left = dict(defaults), list(defaults)
    for argument in arguments.split(",") if arguments else ():
        key, _, value = argument.rpartition("=")
        key = key or next(iter(left), "")
        is_number = isinstance(defaults.get(key), int)
        if key not in left or not value or (is_number and not value.isdecimal()):
            example = ",".join(f"{key}={value}" for key, value in defaults.items())
            raise ValueError(
                f"configs/{name}.py:{arguments}: cannot take {argument!r}; its arguments are "
                f"{', '.join(defaults)}, as {example}"
            )
        left.remove(key)
        values[key] = int(value) if is_number else value
    return list(values.values())


def variant(
    get_config: Callable[[str], ml_collections.ConfigDict], first: str, **named: str | int
) -> Callable[[str], ml_collections.ConfigDict]:
    """A `get_config` with some arguments given, for a file of another name, as sd_m.py.

    Args:
      get_config: of the other file.
      first: its first argument; what follows the colon of the new file are the next ones.
      named: its arguments by name.
    """
    last = [f"{key}={value}" for key, value in named.items()]
    return lambda arguments="": get_config(",".join(filter(None, [first, arguments, *last])))


def sd(size: str, f: int = 8) -> ml_collections.ConfigDict:
    """The paper's main setup (Tables 1 to 4): SD encoder, n_z 4, ADM decoder of `size`."""
    config = get_config()
    config.model.encoder.f = f
    config.model.decoder.size = size
    return config


def lite(size: str) -> ml_collections.ConfigDict:
    """The paper's study setup (Tables 5 and 8): lite encoder, f 16, n_z 8."""
    config = get_config()
    config.model.encoder.name = "lite"
    config.model.encoder.f = 16  # paper
    config.model.encoder.n_z = 8  # paper
    config.model.decoder.size = size
    return config


def dit_decoder(size: str, patch: int = 4) -> ml_collections.ConfigDict:
    """`lite` with a DiT decoder of `size` in place of ADM (paper, Figure 2)."""
    config = lite(size)
    config.model.decoder.name = "dit"
    config.model.decoder.patch = patch
    return config


def vae(size: str, f: int = 16) -> ml_collections.ConfigDict:
    """The paper's "VAE (B…H)" (Table 8): `lite`'s encoder and losses, a deterministic decoder."""
    config = lite(size)
    config.model.encoder.f = f
    return _direct(config, "vae")


def sd_vae(f: int = 8) -> ml_collections.ConfigDict:
    """SD-VAE (Rombach et al. 2022): KL latents; L1, LPIPS and a GAN that starts at step 50,001."""
    config = _direct(sd("m", f), "sd")
    config.model.bottleneck.name = "kl"
    return _taming(config)


def litevae(size: str) -> ml_collections.ConfigDict:
    """LiteVAE (Sadat et al. 2024), `size` s to l: SD-VAE with another encoder, no 1×1 convolutions.

    Its discriminator and its losses of high frequencies are not here: as SD-VAE, to compare with.
    """
    config = sd_vae()
    config.model.encoder.name = f"litevae_{size}"
    config.model.bottleneck.kl_convs = False  # LiteVAE's Table 17
    return config


def asym_vae(size: str) -> ml_collections.ConfigDict:
    """Asym-VAE (Zhu et al. 2023), `size` l or xl: a larger decoder on SD-VAE's frozen encoder.

    Trained without masks, as its own training is on the images that it masks whole: the weights of
    the known part stay as they are initialised. post_quant_conv, frozen there, is trained anew.
    """
    config = sd_vae()
    config.model.encoder.frozen = True
    config.model.decoder.name = "asym"
    config.model.decoder.size = size
    config.init_from = "runs/sd_vae"  # a run of sd_vae.py
    config.init.decoder = "none"
    config.init.discriminator = "none"
    return config


def vqgan(f: int = 16) -> ml_collections.ConfigDict:
    """VQGAN (Esser et al. 2021): 16384 codes of 256; otherwise as SD-VAE."""
    config = _direct(sd("m", f), "vqgan")
    config.model.encoder.name = "vqgan"
    config.model.encoder.n_z = 256
    config.model.bottleneck.name = "vq"
    return _taming(config)


def llamagen(f: int = 16) -> ml_collections.ConfigDict:
    """LlamaGen's tokenizer (Sun et al. 2024): 16384 codes of 8, of length 1."""
    config = vqgan(f)
    config.model.encoder.n_z = 8
    config.model.bottleneck.normalized_codes = True
    config.loss.distance = "l2"
    config.loss.adaptive_weight = False
    config.loss.adv_start_step = config.loss.disc_start_step = 20_000
    config.optim.b1, config.optim.b2 = 0.9, 0.95
    config.optim.discriminator_b1, config.optim.discriminator_b2 = 0.9, 0.95
    return config


def omni_vae() -> ml_collections.ConfigDict:
    """OmniTokenizer's VAE (Wang et al. 2024): f 8, n_z 8, transformers; SD-VAE's GAN."""
    config = _taming(_direct(sd("m"), "omni"))
    config.model.encoder.name = "omni"
    config.model.encoder.n_z = 8
    config.model.bottleneck.name = "kl"
    # It has 1e-6 of an image's sum at 256 px, beside 4 of the mean of L1, which is 1 here.
    config.model.bottleneck.kl_weight = 1e-6 / 4 * 3 * 256**2
    config.model.bottleneck.kl_convs = False  # its encoder ends and its decoder begins with them
    return config


def _direct(config: ml_collections.ConfigDict, decoder: str) -> ml_collections.ConfigDict:
    config.model.decoder.name = decoder
    config.flow.process = "direct"
    config.flow.nfe = 1
    config.loss.matching = "standard"  # there is no x_t to show
    return config


def _taming(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The losses of taming-transformers and latent-diffusion."""
    config.loss.distance = "l1"
    config.loss.lpips_weight = 1.0
    config.loss.gan = "hinge"
    config.loss.adv_weight = 0.5
    config.loss.adaptive_weight = True
    config.loss.adv_start_step = config.loss.disc_start_step = 50_001
    config.loss.r1_weight = 0.0
    config.optim.b1, config.optim.b2 = 0.5, 0.9
    config.optim.discriminator_b1, config.optim.discriminator_b2 = 0.5, 0.9
    return config


def finetuned(config: ml_collections.ConfigDict, resolution: int) -> ml_collections.ConfigDict:
    """Second stage at a higher resolution (paper, C.2): name the first with --config.init_from."""
    config.data.resolution = resolution
    config.num_steps = 100_000  # ours; the paper does not say
    return config
