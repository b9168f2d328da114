"""Folders of pictures: which picture belongs to an image, and what is said when none does."""

import numpy as np
import pytest
from PIL import Image

from epsilon_vae.checkpoint import CheckpointError
from epsilon_vae.data.decode import DataError
from epsilon_vae.evaluation import protocols
from epsilon_vae.evaluation.images import Batch
from epsilon_vae.evaluation.reconstructors import (
    PictureFolder,
    ReconstructorError,
    open_reconstructors,
)
from epsilon_vae.parallel.mesh import make_mesh

LOCAL = protocols.parse("local")
NAMES = np.array(["photos/a.jpg", "photos/b.jpg"])
BATCH = Batch(np.zeros((2, 8, 8, 3), np.uint8), np.array([3, 4]), NAMES, 2)


def write(path, value, size=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value,) * 3).save(path)


def test_pictures_go_by_name_or_by_what_save_images_calls_them(tmp_path):
    write(tmp_path / "b.png", 40)
    write(tmp_path / "sub" / "000003-a.png", 30)
    [reconstructor] = open_reconstructors([str(tmp_path)], None, protocol=LOCAL, mesh=make_mesh())
    assert reconstructor.nfes((1, 3)) == (None,)
    pictures = reconstructor.decode(reconstructor.encode(BATCH), None, 0)
    assert pictures[:, 0, 0, 0].tolist() == [30, 40]


def test_noise_of_latents_is_of_their_deviation_and_of_the_image(finished_run):
    [reconstructor] = open_reconstructors(
        [str(finished_run)], None, protocol=LOCAL, mesh=make_mesh()
    )
    latents = np.random.default_rng(0).normal(2, (1, 3, 1, 1, 1, 1, 1, 1), (2, 64, 64, 8))
    reconstructor.learn_deviation([latents[:1], latents[1:]])
    deviation = latents.std(axis=(0, 1, 2))
    noise = reconstructor.add_noise(latents, 0.5, batch=BATCH, seed=0) - latents
    np.testing.assert_allclose(noise.std(axis=(0, 1, 2)) / deviation, 0.5, rtol=0.05)
    alone = BATCH._replace(indices=BATCH.indices[1:])
    again = reconstructor.add_noise(latents[1:], 0.5, batch=alone, seed=0) - latents[1:]
    np.testing.assert_array_equal(again, noise[1:])
    assert PictureFolder.add_noise(reconstructor, latents, 0.5, batch=BATCH, seed=0) is None


def test_what_does_not_fit_is_named(tmp_path):
    write(tmp_path / "a.png", 1)
    with pytest.raises(
        ReconstructorError, match=r"no picture for photos/b.jpg; expected b.png, or 0000"
    ):
        PictureFolder(str(tmp_path)).encode(BATCH)
    write(tmp_path / "b.png", 1, size=9)
    with pytest.raises(ReconstructorError, match=r"b.png: 9x9 pixels, its original's crop has 8x8"):
        PictureFolder(str(tmp_path)).encode(BATCH)
    folder = PictureFolder(str(tmp_path))
    folder.check(8, 2)
    with pytest.raises(ReconstructorError, match=r"only 2 of 3 pictures; each image needs one"):
        folder.check(8, 3)
    write(tmp_path / "other" / "a.png", 1)
    with pytest.raises(DataError, match="two pictures of one name"):
        PictureFolder(str(tmp_path))


def test_two_images_do_not_share_a_picture(tmp_path):
    write(tmp_path / "a.png", 1)
    write(tmp_path / "b.png", 1)
    folder = PictureFolder(str(tmp_path))
    first, again = (BATCH._replace(names=np.array([f"{x}/a.jpg", f"{x}/b.jpg"])) for x in "xy")
    for _ in range(2):  # at the next resolution the same images come again
        folder.encode(first)
    with pytest.raises(
        ReconstructorError, match=r"a.png: two images of that name, .* y/a.jpg; name"
    ):
        folder.encode(again._replace(indices=np.array([5, 6])))


def test_subjects_of_one_name_are_told_apart(tmp_path):
    paths = [str(tmp_path / parent / "pictures") for parent in "xy"]
    for path in paths:
        write(tmp_path / path / "a.png", 1)
    reconstructors = open_reconstructors(paths, None, protocol=LOCAL, mesh=make_mesh())
    assert [reconstructor.name for reconstructor in reconstructors] == paths
    with pytest.raises(ReconstructorError, match="twice"):
        open_reconstructors([paths[0]] * 2, None, protocol=LOCAL, mesh=make_mesh())


def test_no_run_and_no_pictures(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints in it; is it the workdir of a run"):
        open_reconstructors([str(tmp_path)], None, protocol=LOCAL, mesh=make_mesh())
