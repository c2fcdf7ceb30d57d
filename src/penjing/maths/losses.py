"""Distillation losses: one equation, one function. Letters: z logits of the student, t of the teacher, T temperature."""

import torch.nn.functional as F
from torch import Tensor


def soft_kl(z: Tensor, t: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(z/T)), mean over rows; z, t (N, C) (Hinton et al. 2015, section 2).

    T² keeps the gradient's scale whatever the temperature.
    """
    student, teacher = F.log_softmax(z / temperature, dim=-1), F.log_softmax(t / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def state_mse(h: Tensor, g: Tensor) -> Tensor:
    """‖h - g‖² / ‖g‖², each summed over all tokens: hidden states h of the student, g of the teacher, both (N, H).

    The division makes layers of different scale weigh alike (Romero et al. 2015, equation 3, normalised).
    """
    return (h - g).square().sum() / g.square().sum().clamp_min(1e-12)
