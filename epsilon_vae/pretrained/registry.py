"""All third-party weights, by name."""

from epsilon_vae.pretrained import efficientnet_lite, inception, lpips
from epsilon_vae.pretrained.weights import Params, Weights

REGISTRY: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        inception.WEIGHTS,
        lpips.VGG16,
        lpips.ALEXNET,
        efficientnet_lite.WEIGHTS,
    )
}


def load(name: str) -> Params:
    """Parameters of 'inception', 'vgg16', 'alexnet' or 'efficientnet_lite0'.

    Their layout is told by the `convert` of each module.

    Raises:
      WeightsError: they are missing, or not the known ones; the message says how to get them.
      OSError: the file cannot be read.
    """
    return REGISTRY[name].load()
