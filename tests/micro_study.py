"""`python -m epsilon_vae.study` in seconds: the networks of `micro`, two steps of decoding."""

import runpy

from configs import studies
from tests import micro


def in_two_steps(study):
    """The study, whose variants are evaluated at NFE 2."""
    return lambda scale: {name: v._replace(nfes=(2,)) for name, v in study(scale).items()}


if __name__ == "__main__":
    studies.tiny = micro
    studies.STUDIES = {name: in_two_steps(study) for name, study in studies.STUDIES.items()}
    runpy.run_module("epsilon_vae.study", run_name="__main__", alter_sys=True)
