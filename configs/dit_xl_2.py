"""DiT-XL/2 on latents of 256 px (paper, Table 4), f 8; `dit_xl_2.py:16` is f 16, and so 32."""

from configs import latent_diffusion


def get_config(f: str = "8"):
    """DDPM on latents of downsampling factor `f`."""
    return latent_diffusion.dit("xl", patch=2, f=int(f))
