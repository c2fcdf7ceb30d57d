"""Distillation losses: one equation, one function.

Letters: z logits of the student, t of the teacher, (N, C); h states of the student, g of the teacher, (N, H) over real tokens or
texts; T temperature. B texts, S tokens, `mask` (B, S) with True where there is a token. Each is a mean over its rows.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

NEAR = 1e-3
"""Two texts whose states differ by less than this part of their size form no angle: they are the same text."""

# -- answers -----------------------------------------------------------------------------------------------------


def soft_cross_entropy(z: Float[Tensor, "N C"], t: Float[Tensor, "N C"], temperature: float = 1.0) -> Float[Tensor, ""]:
    """-T²·Σ softmax(t/T) log softmax(z/T) (Hinton et al. 2015, section 2): `soft_kl` and the teacher's own entropy."""
    return temperature**2 * F.cross_entropy(z / temperature, F.softmax(t / temperature, dim=-1))


def soft_kl(z: Float[Tensor, "N C"], t: Float[Tensor, "N C"], temperature: float = 1.0) -> Float[Tensor, ""]:
    """T²·KL(softmax(t/T) ‖ softmax(z/T)), mean over rows; z, t (N, C) (Hinton et al. 2015, section 2).

    T² keeps the gradient's scale whatever the temperature.
    """
    student, teacher = F.log_softmax(z / temperature, dim=-1), F.log_softmax(t / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def logits_mse(z: Float[Tensor, "N C"], t: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
    """‖z - t‖² (Tang et al. 2019, section 3.2)."""
    return (z - t).square().sum(-1).mean()


def soft_kl_entropy(z: Float[Tensor, "N C"], t: Float[Tensor, "N C"], temperature: float = 1.0, alpha: float = 0.1) -> Float[Tensor, ""]:
    """T²·(KL(teacher ‖ student) + α·H(student)), both at temperature T: with α > 0 the student is pushed to be surer than its teacher."""
    log_p = F.log_softmax(z / temperature, dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    return soft_kl(z, t, temperature) + temperature**2 * alpha * entropy


# -- states ------------------------------------------------------------------------------------------------------


def state_mse(h: Float[Tensor, "N H"], g: Float[Tensor, "N H"]) -> Float[Tensor, ""]:
    """‖h - g‖² / ‖g‖², each summed over all tokens: hidden states h of the student, g of the teacher, both (N, H).

    The division makes layers of different scale weigh alike (Romero et al. 2015, equation 3, normalised).
    """
    return (h - g).square().sum() / g.square().sum().clamp_min(1e-12)


def mse(h: Float[Tensor, "N H"], g: Float[Tensor, "N H"]) -> Float[Tensor, ""]:
    """(h - g)², mean over tokens and units (Jiao et al. 2020, equations 8 and 9; Kurtic et al. 2023, appendix: per token, no map)."""
    return F.mse_loss(h, g)


def cosine(h: Float[Tensor, "N H"], g: Float[Tensor, "N H"]) -> Float[Tensor, ""]:
    """1 - cos(h, g) (Sanh et al. 2019, section 2: L_cos)."""
    return 1 - F.cosine_similarity(h, g, dim=-1).mean()


def patient(h: Float[Tensor, "N H"], g: Float[Tensor, "N H"]) -> Float[Tensor, ""]:
    """‖h/‖h‖ - g/‖g‖‖²/H of the first tokens' states (Sun et al. 2019, equation 7: patient knowledge distillation).

    The equation sums over the units, and the paper's weights of 10 … 1000 are for their mean, as the authors' program has it.
    """
    return F.mse_loss(F.normalize(h, dim=-1), F.normalize(g, dim=-1))


# -- attention ---------------------------------------------------------------------------------------------------


def scores(q: Float[Tensor, "B S W"], k: Float[Tensor, "B S W"], heads: int) -> Float[Tensor, "B heads S S"]:
    """q·kᵀ/√w of each head, before softmax: q, k (B, S, heads·w) → (B, heads, S, S) (Vaswani et al. 2017, equation 1)."""
    batch, length, width = q.shape
    q, k = (x.reshape(batch, length, heads, width // heads).transpose(1, 2) for x in (q, k))
    return q @ k.transpose(2, 3) / math.sqrt(width // heads)


def attention_mse(
    a: Float[Tensor, "B heads S S"], b: Float[Tensor, "B heads S S"], mask: Bool[Tensor, "B S"]
) -> Float[Tensor, ""]:  # fmt: skip
    """(a - b)², scores (B, heads, S, S) of student and teacher before softmax, mean over heads and pairs of real tokens
    (Jiao et al. 2020, equation 7)."""
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(a)
    return (a - b)[pairs].square().mean()


def attention_transfer(h: Float[Tensor, "B S H"], g: Float[Tensor, "B S H2"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """‖a/‖a‖ - b/‖b‖‖², mean over texts, of the maps a = Σ h² and b = Σ g² over the units of each real token
    (Zagoruyko & Komodakis 2017, section 3.1, equation 2, with F²_sum; the square of their norm, which has a gradient where maps are equal).

    h (B, S, H), g (B, S, H'). A token stands where the paper has a place of the image.
    """
    return (_attention_map(h, mask) - _attention_map(g, mask)).square().sum(-1).mean()


def _attention_map(x: Tensor, mask: Tensor) -> Tensor:
    """Σ x² over units, of length one over the real tokens: (B, S, H) → (B, S)."""
    return F.normalize(x.square().sum(-1) * mask, dim=-1)


def relation_kl(
    x: Float[Tensor, "B S W"], y: Float[Tensor, "B S W2"], mask: Bool[Tensor, "B S"], heads: int
) -> Float[Tensor, ""]:  # fmt: skip
    """KL(R(y) ‖ R(x)), R(x) = softmax(x·xᵀ/√w) of each relation head, mean over heads and real tokens
    (Wang et al. 2021, MiniLMv2, section 3.1).

    Args:
        x, y: the queries, keys or values of all attention heads side by side, (B, S, W) of the student and (B, S, W') of the
            teacher; both widths are cut into `heads` relation heads, whatever the attention heads were.
    """
    closed = ~mask[:, None, None, :]
    student, teacher = (F.log_softmax(scores(each, each, heads).masked_fill(closed, -1e4), dim=-1) for each in (x, y))
    rows = mask[:, None, :].expand(student.shape[:3])
    return F.kl_div(student[rows], teacher[rows], reduction="batchmean", log_target=True)


# -- relations ---------------------------------------------------------------------------------------------------


def rkd_distance(h: Float[Tensor, "B H"], g: Float[Tensor, "B H2"]) -> Float[Tensor, ""]:
    """Huber loss of the distances between texts, each divided by their mean (Park et al. 2019, section 3.2.1); h (B, H), g (B, H')."""
    if len(h) < 2:
        return h.sum() * 0
    return F.smooth_l1_loss(_distances(h), _distances(g))


def _distances(x: Tensor) -> Tensor:
    between = torch.pdist(x)
    return between / between.mean().clamp_min(1e-12)


def rkd_angle(h: Float[Tensor, "B H"], g: Float[Tensor, "B H2"]) -> Float[Tensor, ""]:
    """Huber loss of the cosines of the angles that triples of distinct texts form (Park et al. 2019, section 3.2.2, equation 6).

    h (B, H), g (B, H'). The mean over distinct triples does not depend on how many texts there are; over all B³, as the authors'
    program has it, it is smaller by B² / ((B - 1)·(B - 2)).
    """
    if len(h) < 3:
        return h.sum() * 0
    other = ~torch.eye(len(h), dtype=torch.bool, device=h.device)
    distinct = other[:, :, None] & other[:, None] & other[None]
    return F.smooth_l1_loss(_angles(h)[distinct], _angles(g)[distinct])


def _angles(x: Tensor) -> Tensor:
    sides = x[None] - x[:, None]
    sides = F.normalize(sides, dim=-1, eps=NEAR * float(x.detach().norm(dim=-1).mean() + 1e-12))
    return sides @ sides.transpose(1, 2)


def similarity(h: Float[Tensor, "B S H"], g: Float[Tensor, "B S H2"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """‖G(h) - G(g)‖² / B²: how alike the texts of a batch are, to the student and to the teacher (Tung & Mori 2019, section 3.1,
    equations 2 to 4).

    h (B, S, H), g (B, S, H'). G = Q·Qᵀ with rows of length one, where a row of Q is a text's states end to end.
    """
    return (_similarities(h, mask) - _similarities(g, mask)).square().sum() / len(h) ** 2


def _similarities(x: Tensor, mask: Tensor) -> Tensor:
    q = (x * mask[..., None]).flatten(1)  # (B, S·H)
    return F.normalize(q @ q.T, dim=1)


def neighbour_kl(h: Float[Tensor, "B H"], g: Float[Tensor, "B H2"]) -> Float[Tensor, ""]:
    """KL(P(g) ‖ P(h)), mean over texts, where P(j | i) is text j's part in what is near text i: k_ij / Σ k_im over the others m,
    k = (cosine + 1)/2 (Passalis & Tefas 2018, section 3: probabilistic knowledge transfer); h (B, H), g (B, H')."""
    if len(h) < 2:
        return h.sum() * 0
    student, teacher = (_neighbours(each).log() for each in (h, g))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _neighbours(x: Tensor) -> Tensor:
    """P(j | i) of the others of each text: (B, H) → (B, B - 1)."""
    unit = F.normalize(x, dim=-1)
    others = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    near = ((unit @ unit.T + 1) / 2)[others].reshape(len(x), -1).clamp_min(1e-6)
    return near / near.sum(1, keepdim=True)


def flow(x: Float[Tensor, "B S H"], y: Float[Tensor, "B S H"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, "B H H"]:
    """Σ x yᵀ over the tokens of a text, divided by their number: states (B, S, H) of two layers → (B, H, H) (Yim et al. 2017, equation 1)."""
    inside = mask[..., None]
    return (x * inside).transpose(1, 2) @ (y * inside) / mask.sum(1)[:, None, None]


def fsp(
    h: tuple[Float[Tensor, "B S H"], Float[Tensor, "B S H"]], g: tuple[Float[Tensor, "B S H"], Float[Tensor, "B S H"]],
    mask: Bool[Tensor, "B S"],
) -> Float[Tensor, ""]:  # fmt: skip
    """(flow(h) - flow(g))²: how the states of one layer become those of another (Yim et al. 2017, FSP matrices).

    The mean over the entries, so that a weight means the same at every width; the sum of their equation 2 is H·H' times that.
    """
    return F.mse_loss(flow(*h, mask), flow(*g, mask))


def nst(h: Float[Tensor, "B S H"], g: Float[Tensor, "B S H2"], mask: Bool[Tensor, "B S"]) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of the units' activations over a text, kernel (x·y)² (Huang & Wang 2017, section 3).

    A unit is a sample: its activation on each token of the text, of length one; h (B, S, H), g (B, S, H').
    """
    x, y = (F.normalize(each * mask[..., None], dim=1) for each in (h, g))
    return (_kernel(y, y) + _kernel(x, x) - 2 * _kernel(x, y)).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """The mean of (x_i·y_j)² over pairs of units i, j: (B, S, H), (B, S, H') → (B,); by way of S·S numbers, since Σ_ij (x_iᵀy_j)² = ⟨xxᵀ, yyᵀ⟩."""
    return ((x @ x.transpose(1, 2)) * (y @ y.transpose(1, 2))).sum((1, 2)) / (x.shape[2] * y.shape[2])
