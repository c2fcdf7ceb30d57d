"""SmoothQuant: outliers of activations move into the weights, so that one scale per tensor fits the activations better.

W·x = (W·diag(s))·(x/s) for every s > 0, one factor per input channel (Xiao et al. 2023, SmoothQuant, equation 3). It costs
nothing where x/s comes out of the layer before by itself, and here that is so in two places:

- value → attention output: the context is a weighted sum of values over tokens, channel by channel, so value/s gives context/s;
- up → down where the activation is ReLU, which keeps positive factors; GELU, SiLU and tanh do not.

What a norm gives feeds the next linear layers and the residual, and the sum is normed over all channels, so no factor
per channel can hide there: it would take a multiplication of its own. Those inputs are left as they are.
"""

import torch
from torch import Tensor, nn

from penjing.engines.onnx.graph import first_token_layers
from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import batches
from penjing.model.surgery import copy_of
from penjing.model.watch import linear_layers, own_layers, watching_inputs
from penjing.text.encoded import Encoded


def smoothing_factors(x: Tensor, w: Tensor, alpha: float) -> Tensor:
    """Smoothing factors s_j = max|X_j|^α / max|W_j|^(1-α) (Xiao et al. 2023, equation 4).

    x: (K,) the largest |X_j| of each input channel. w: (outputs, K) the layer's weights. Returns (K,), 1 where either is all zeros.
    """
    largest = w.abs().amax(0)
    s = x**alpha / largest ** (1 - alpha)
    return torch.where((x > 0) & (largest > 0), s, 1.0)


@torch.no_grad()
def smooth(model: PenjingPreTrainedModel, encoded: Encoded, alpha: float = 0.5, batch: int = 16) -> PenjingPreTrainedModel:
    """A new model of the same float function, smoothed where the factors can be folded into the layer before (see above).

    Args:
        encoded: texts whose activations are looked at.
        alpha: from 0 (the weights become even) to 1 (the activations become even).
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"smooth: alpha is {alpha}; allowed is 0 to 1, and 0.5 is the usual")
    result = copy_of(model)
    pairs = _foldable(result)
    largest = _largest(model, encoded, batch)
    for before, after, name in pairs:
        s = smoothing_factors(largest[name], after.weight, alpha)
        before.weight.div_(s[:, None])
        before.bias.div_(s)
        after.weight.mul_(s)
    return result


def _foldable(model: PenjingPreTrainedModel) -> list[tuple[nn.Linear, nn.Linear, str]]:
    """Pairs of linear layers that can be smoothed: the layer that takes 1/s, the layer that takes s, the name of the latter."""
    pairs: list[tuple[nn.Linear, nn.Linear, str]] = []
    layers = blueprint_of(model).layers
    for i, layer in own_layers(model).items():
        if layer.attention.heads:
            pairs.append((layer.attention.value, layer.attention.output, f"layers.{i}.attention.output"))
        if layer.feed_forward.up is not None and layers[i].activation in ("relu", "" if model.config.hidden_act == "relu" else "relu"):
            pairs.append((layer.feed_forward.up, layer.feed_forward.down, f"layers.{i}.feed_forward.down"))
    return pairs


def _largest(model: PenjingPreTrainedModel, encoded: Encoded, batch: int) -> dict[str, Tensor]:
    """The largest |X_j| of each input channel (K,) of each linear layer, over the tokens that the exported graph computes."""
    first_only = first_token_layers(blueprint_of(model))
    largest: dict[str, Tensor] = {}

    def look(name: str, x: Tensor) -> None:
        read = x[:, :1] if name in first_only else x
        peak = read.abs().flatten(0, -2).amax(0)  # (B, S, K) → (K,)
        largest[name] = torch.maximum(largest[name], peak) if name in largest else peak

    with watching_inputs(linear_layers(model).items(), look):
        for _, feeds in batches(model, encoded, batch, masked=True):
            model(**feeds)
    return largest
