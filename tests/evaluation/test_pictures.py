"""What the report shows: of which images, and that it is what was measured and decoded."""

import numpy as np
import pytest

from epsilon_vae.data.decode import DEFAULT
from epsilon_vae.data.sources import Photos
from epsilon_vae.data.transforms import to_float
from epsilon_vae.evaluation import measuring, pictures, protocols
from epsilon_vae.evaluation.pictures import Amount, ReportImages, amounts
from epsilon_vae.evaluation.reconstruction_metrics import ReconstructionMetrics
from epsilon_vae.evaluation.reconstructors import Run
from epsilon_vae.parallel.mesh import make_mesh

SIZE, STEPS, SEED = 32, (1, 3), 5
CROP = "center_crop_adm"


class Noisy(Run):
    """Says to be a run; mixes its seed's noise into an image, less of it at more steps."""

    name = "noisy"
    metadata = {"kind": "test"}
    is_diffusion = True

    def __init__(self):
        self.autoencoder = self

    def nfes(self, steps):
        return tuple(steps)

    def encode(self, batch):
        return to_float(batch.images)

    def decode(self, code, nfe, seed):
        return np.stack([self._states(x, nfe, seed)[-1] for x in code])

    def trajectory(self, latents, steps, seed):
        states = self._states(latents, steps, seed)
        states = to_float(states)
        return np.linspace(1, 0, steps + 1), states, states[1:]

    def _states(self, image, steps, seed):
        noise = np.random.default_rng(seed).uniform(-1, 1, image.shape)
        shares = np.linspace(1, 0.2 / steps, steps + 1)[:, None, None, None]
        return np.clip((shares * noise + (1 - shares) * image + 1) * 127.5, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """Tallies of 14 photos, and their pictures where two of a kind are shown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "amounts", lambda *args, **kwargs: {SIZE: Amount(4, 3, 2)})
        reconstructors, source = [Noisy()], Photos("train")
        metrics = ReconstructionMetrics(("alexnet",), (), make_mesh())
        file = tmp_path_factory.mktemp("measured") / "progress.npz"
        measured = measuring.measure(
            reconstructors,
            source,
            resolution=SIZE,
            steps=STEPS,
            protocol=protocols.parse(f"local,seed={SEED}"),
            metrics=metrics,
            file=file,
            advance=lambda count: None,
        )
        size = metrics.batch_size
        report_images = ReportImages(
            reconstructors,
            source,
            resolutions=(SIZE,),
            steps=STEPS,
            crop=CROP,
            decoding=DEFAULT,
            seed=SEED,
            batch_size=size,
        )
        report_images.add(SIZE, measured.accumulators)
    return measured.accumulators, report_images.pictures


def test_worst_images_are_ranked_by_each_metric(taken):
    accumulators, shown = taken
    assert set(shown.worst) == {
        (SIZE, name, ("noisy", 3)) for name in ("psnr", "ssim", "lpips_alexnet")
    }
    for (_, name, key), indices in shown.worst.items():
        values = accumulators[key].per_image(name)
        order = np.argsort(values if name in ("psnr", "ssim") else -values)
        assert indices == order[:3].tolist()


def test_gallery_has_all_pictures_and_worst_images_their_own(taken):
    _, shown = taken
    gallery = [0, 4, 8, 13]
    worst = {index for indices in shown.worst.values() for index in indices}
    assert sorted(image.index for image in shown.images) == sorted({*gallery, *worst})
    assert worst - {*gallery}
    for image in shown.images:
        expected = [("noisy", 1), ("noisy", 3)] if image.index in gallery else [("noisy", 3)]
        assert list(image.reconstructions) == list(image.metrics) == expected
    assert shown.shown == [
        f"{SIZE} px: 4 of 14 images, evenly spaced, and the worst 3 by each metric; more would "
        "make this file larger than 100 MB"
    ]


def test_metrics_and_pictures_are_those_of_the_image(taken):
    accumulators, shown = taken
    for image in shown.images:
        for (name, nfe), picture in image.reconstructions.items():
            expected = Noisy().decode(to_float(image.original)[None], nfe, SEED)[0]
            np.testing.assert_array_equal(picture, expected)
            for metric, value in image.metrics[name, nfe].items():
                assert value == accumulators[name, nfe].per_image(metric)[image.index]


def test_trajectories_end_in_what_is_decoded_and_seeds_vary(taken):
    _, shown = taken
    originals = {image.index: image.original for image in shown.images}
    assert (
        [trajectory.index for trajectory in shown.trajectories]
        == [s.index for s in shown.seeds]
        == [0, 13]
    )
    for trajectory, seeds in zip(shown.trajectories, shown.seeds, strict=True):
        code = to_float(originals[trajectory.index])
        last = Noisy().decode(code[None], pictures.TRAJECTORY_STEPS, SEED)[0]
        np.testing.assert_array_equal(trajectory.states[-1], last)
        draws = [Noisy().decode(code[None], 3, SEED + i)[0] for i in range(seeds.num_seeds)]
        expected = np.std(np.asarray(draws, np.float64), axis=0).mean(axis=-1)
        np.testing.assert_allclose(seeds.deviation, expected, atol=1e-3)


def test_amounts_are_what_a_budget_allows():
    assert amounts((128,), 1, num_runs=1, num_keys=2) == {128: Amount(64, 10, 4)}
    found = amounts((512, 128, 256), 1, num_runs=1, num_keys=2)
    whole = Amount(64, 10, 4), Amount(16, 10, 4)
    assert (found[128], found[256], found[512]) == (*whole, Amount(5, 3, 1))
    found = amounts((128, 256, 512), 3, num_runs=3, num_keys=9)
    pixels = sum(
        r**2 * (n.gallery * 10 + n.worst * 2 * pictures.LISTS * 3 + n.close * 3 * 22)
        for r, n in found.items()
    )
    assert pixels * pictures.BYTES_PER_PIXEL <= pictures.BUDGET_BYTES
    assert min(amount.gallery for amount in found.values()) >= 4
