"""A VAE of diffusers in an evaluation: loaded from a folder, its mode decoded."""

import numpy as np
import pytest

from epsilon_vae.data.transforms import to_float
from epsilon_vae.evaluation import protocols
from epsilon_vae.evaluation.images import Batch
from epsilon_vae.evaluation.reconstructors import ReconstructorError, open_reconstructors
from epsilon_vae.parallel.mesh import make_mesh
from tests.helpers import held_out_images
from tests.parity.requirements import require

require("diffusers")
import diffusers  # noqa: E402
import torch  # noqa: E402


def open_vae(path):
    [reconstructor] = open_reconstructors(
        [f"diffusers:{path}"], None, protocol=protocols.parse("local"), mesh=make_mesh()
    )
    return reconstructor


def test_pictures_are_the_vaes(tmp_path):
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    ).eval()
    vae.save_pretrained(tmp_path / "small-vae")
    broken = tmp_path / "broken"
    vae.save_pretrained(broken)
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(bytes(100))
    with pytest.raises(ReconstructorError, match=r"broken: cannot be loaded \(\w"):
        open_vae(broken)
    reconstructor = open_vae(tmp_path / "small-vae")
    assert (reconstructor.name, reconstructor.nfes((1, 3))) == ("small-vae", (None,))
    images = held_out_images(32)
    batch = Batch(images, np.arange(3), np.array(["a", "b", "c"]), 3)
    pictures = reconstructor.decode(reconstructor.encode(batch), None, 0)
    with torch.no_grad():
        x = torch.from_numpy(to_float(images).transpose(0, 3, 1, 2))
        expected = vae(x).sample.numpy().transpose(0, 2, 3, 1)
    expected = np.clip((expected + 1) * 127.5, 0, 255)
    assert pictures.dtype == np.uint8 and np.abs(pictures - expected).max() <= 0.51
    with pytest.raises(ReconstructorError, match="takes multiples of 2"):
        reconstructor.check(33, 3)


def test_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(ReconstructorError, match=r"diffusers:.*cannot be loaded"):
        open_vae(tmp_path)
