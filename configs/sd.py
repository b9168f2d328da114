"""ε-VAE in the paper's main setup (Tables 1 to 4): SD encoder, n_z 4, ADM decoder.

`sd.py:SIZE,f=F,resolution=R`: size b, m (the default), l, xl or h; f 8, 16 or 32; 128 px, or more
for a second stage, which starts from a run of the first that `--config.init_from` names.

Command: `python -m epsilon_vae.main --config=configs/sd.py:m --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

Hardware: TPU v5e pods (paper, which does not say how large). m and l fit 16 v5e chips, xl and h do
with `--config.mesh.fsdp=16 --config.model.remat=convs`; measured by `python -m epsilon_vae.compile
--config=configs/sd.py:m --topology=v5e:4x4`.

ImageNet rFID at f 8 (paper, Table 1); at f 16, after a second stage at 256 px, 1.91 of m and 1.35
of h (paper, Table 2). Ours are not trained yet.

    size  decoder   128 px  256 px, second stage
    b     20.6 M    1.94    0.52
    m     49.3 M    1.58    0.47
    l     89.0 M    1.47    0.45
    xl    140.6 M   1.34    0.43
    h     355.6 M   1.00    0.38
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch at 128 px; above it, fine-tuned."""
    size, f, resolution = common.read_arguments("sd", arguments, size="m", f=8, resolution=128)
    config = common.sd(size, f)
    return common.finetuned(config, resolution) if resolution > 128 else config
