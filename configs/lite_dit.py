"""ε-VAE with a DiT decoder (paper, Figure 2), lite encoder, f 16, 128 px.

`lite_dit.py:SIZE,patch=P`: size s, b (the default), l or xl of the DiT; a token is 4 × 4 pixels
(the default) or 8 × 8.

Command: `python -m epsilon_vae.main --config=configs/lite_dit.py --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`

The paper has a plot of its rFID and no number. Ours are not trained yet.
"""

from configs import common


def get_config(arguments: str = ""):
    """Trained from scratch."""
    return common.dit_decoder(*common.read_arguments("lite_dit", arguments, size="b", patch=4))
