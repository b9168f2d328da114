"""Protocols: named, changed, stamped, refused."""

import pytest

from epsilon_vae.data.decode import DEFAULT, ImageDecoding
from epsilon_vae.evaluation import protocols
from epsilon_vae.evaluation.protocols import ProtocolError


def test_paper_is_fid_on_adm_crops_of_ema_weights():
    paper = protocols.parse("paper")
    assert (paper.crop, paper.features, paper.weights) == ("adm", ("inception",), "ema")
    assert [protocols.distance_name(name) for name in paper.features] == ["rfid"]


def test_changes_are_in_the_name_and_the_stamp():
    text = (
        "local,crop=bicubic,features=vgg16+efficientnet_lite0,seed=7,num_images=500,weights=raw,"
        "latent_noise=0.1+0.3,group_size=16"
    )
    stamp = protocols.parse(text).stamp()
    assert stamp["name"] == text
    assert stamp["features"] == ("vgg16", "efficientnet_lite0")
    assert (stamp["crop"], stamp["seed"], stamp["num_images"]) == ("bicubic", 7, 500)
    assert (stamp["latent_noise"], stamp["group_size"]) == ((0.1, 0.3), 16)
    assert {"rounding", "reference", "psnr", "ssim", "ssim_range2", "weights"} <= stamp.keys()


def test_how_files_are_decoded_is_in_the_stamp():
    paper = protocols.parse("paper")
    assert paper.stamp()["profiles"] == "srgb" and paper.decoding() == DEFAULT
    other = protocols.parse("paper,profiles=ignored,max_pixels=100000000")
    assert (other.stamp()["profiles"], other.stamp()["max_pixels"]) == ("ignored", 10**8)
    assert other.decoding() == ImageDecoding(convert_profiles=False, max_pixels=10**8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("papper", "no protocol 'papper'; paper or local"),
        ("paper,corp=adm", "no key 'corp'; crop, features"),
        ("paper,crop=center", "crop = 'center': expected adm or bicubic"),
        ("paper,features=alexnet+resnet", "no features 'resnet'; inception, alexnet"),
        ("paper,profiles=p3", "profiles = 'p3': expected srgb or ignored"),
        ("paper,seed=-1", "seed = '-1': expected a whole number"),
        ("paper,seed", "seed = '': expected a whole number"),
        ("paper,group_size=0", "group_size = '0': expected 1 to 1024"),
        ("paper,latent_noise=0.1+0", "latent_noise = '0.1.0': expected numbers above 0, as 0.1"),
        ("paper,latent_noise=much", "latent_noise = 'much': expected numbers above 0"),
    ],
)
def test_what_is_wrong_is_named(text, words):
    with pytest.raises(ProtocolError, match=words):
        protocols.parse(text)


def test_missing_weights_are_said_with_two_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("EPSILON_VAE_CACHE", str(tmp_path))
    with pytest.raises(ProtocolError, match="--get=inception.*protocol local"):
        protocols.check_features(protocols.parse("paper"))
    protocols.check_features(protocols.parse("local"))
