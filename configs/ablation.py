"""The paper's ablation ladder (Table 5): `ablation.py:baseline`, then `:a` to `:g`, each a step up.

Command: `python -m epsilon_vae.main --config=configs/ablation.py:a --workdir=DIR
--config.data.source=array_record --config.data.path=IMAGENET`; or all of them, smaller ones too, by
`python -m epsilon_vae.study --study=ladder`.

Lite encoder, decoder B, 128 px; ImageNet rFID at NFE (paper): baseline 28.22 @1000, a 24.11 @100, b
23.44 @50, c 22.04 @50, d 11.76 @10, e 8.24 @5, f 7.08 @5, g 6.24 @3. Ours are not trained at this
scale yet.
"""

from configs import common

# What each rung changes of the one before, from the DDPM diffusion decoder to the paper's ε-VAE.
LADDER = {
    "baseline": {
        "flow.process": "ddpm",
        "flow.time_sampling": "uniform",
        "flow.spacing": "uniform",
        "flow.gamma": 1.0,
        "flow.nfe": 1000,
        "model.decoder.name": "ddpm",
        "loss.lpips_weight": 0.0,
        "loss.adv_weight": 0.0,
    },
    "a": {"flow.process": "rectified_flow", "flow.nfe": 100},
    "b": {"flow.time_sampling": "logit_normal", "flow.nfe": 50},
    "c": {"model.decoder.name": "adm"},
    "d": {"loss.lpips_weight": 0.5, "flow.nfe": 10},
    "e": {"loss.adv_weight": 0.5, "flow.nfe": 5},
    "f": {"flow.gamma": 0.6},
    "g": {"flow.spacing": "reversed_log", "flow.nfe": 3},
}


def get_config(rung: str = "g"):
    """The config of a rung, `baseline` or `a` to `g`."""
    if rung not in LADDER:
        raise ValueError(f"configs/ablation.py:{rung}: the rungs are {', '.join(LADDER)}")
    config = common.lite("b")
    for name, changes in LADDER.items():
        config.update_from_flattened_dict(changes)
        if name == rung:
            break
    return config
