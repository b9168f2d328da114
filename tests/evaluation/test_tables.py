"""Numbers of a report as texts."""

import pytest

from epsilon_vae.evaluation.tables import cell


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3e-13, "0"),
        (-3e-13, "0"),
        (0.0, "0"),
        (9.99996, "10.00"),
        (9.9994, "9.999"),
        (0.00123456, "0.001235"),
        (123456.7, "123457"),
        (-9.99996, "-10.00"),
    ],
)
def test_distances_have_four_digits(value, text):
    assert cell("fd_vgg16", value) == {"text": text, "value": value}


def test_decoding_time_is_in_milliseconds():
    assert cell("decode_seconds", 0.0099996)["text"] == "10.0"
