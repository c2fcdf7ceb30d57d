"""Training a word table by the rows that a batch reads: all others have no gradient, and a table is most of a small model.

On a CPU a dense gradient of 30,000 rows, its norm and its moments cost as much as the encoder's whole pass.
"""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from penjing.model.modeling_penjing import MaskedHead


def word_tables(model: nn.Module) -> list[nn.Embedding]:
    """The word tables inside a model that are read by their rows alone: not rounded as a whole, nor shared with a language model's head."""
    if any(isinstance(module, MaskedHead) for module in model.modules()):
        return []
    embeddings = [module.get_input_embeddings() for module in model.modules() if isinstance(module, PreTrainedModel)]
    tables = {id(table): table for table in embeddings if isinstance(table, nn.Embedding)}
    return [table for table in tables.values() if not parametrize.is_parametrized(table)]


def sparse_words(model: nn.Module, *, on: bool) -> None:
    """Let the word tables' gradients hold the rows of the batch alone, or all rows."""
    for table in word_tables(model):
        table.sparse = on


def clip(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Scale all gradients to a norm of at most `limit` together, as `clip_grad_norm_` does, sparse ones too."""
    values: list[Tensor] = []
    for p in parameters:
        if p.grad is not None:
            p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad
            values.append(p.grad._values() if p.grad.is_sparse else p.grad)
    if values:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
        torch._foreach_mul_(values, (limit / (norm + 1e-6)).clamp(max=1.0))


@final
class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) of the rows that a sparse gradient holds; a row's moments and its decay stand still where it does not.

    This is what TensorFlow calls LazyAdam. Bias correction counts all steps.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        for group in self.param_groups:
            (one, two), rate = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                gradient = p.grad.coalesce()
                rows = gradient.indices()[0]
                g = gradient.values()
                m, v = (state[name][rows] for name in ("exp_avg", "exp_avg_sq"))
                m, v = m.lerp_(g, 1 - one), v.mul_(two).addcmul_(g, g, value=1 - two)
                state["exp_avg"][rows], state["exp_avg_sq"][rows] = m, v
                size = rate / (1 - one ** state["step"])
                root = (v / (1 - two ** state["step"])).sqrt_().add_(group["eps"])
                p[rows] = p[rows].mul_(1 - rate * group["weight_decay"]).addcdiv_(m, root, value=-size)
