"""Adversarial changes of a model's inputs."""

from jaxtyping import Float
from torch import Tensor


def worst_step(g: Float[Tensor, "B S R"], size: float | Float[Tensor, ""]) -> Float[Tensor, "B S R"]:
    """size·g/‖g‖, the norm over a whole text: the step of that length along which the loss grows fastest to first order
    (Miyato et al. 2017, section 3, equation 5; Goodfellow et al. 2015 with another norm).

    Args:
        g: gradients (B, S, R) of the loss at the word embeddings of B texts; a text whose gradient is zero is not moved.
    """
    return size * g / g.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
