"""Rounding that knows what a layer reads: errors made early in a row are made up for by the weights still to come.

Letters: W (R, K) the weights of a linear layer, Q what they are rounded to, H (K, K) the mean of x·xᵀ over its inputs x.
The mean squared error at its outputs is Σ over rows of (w - q)·H·(w - q)ᵀ, so each row is rounded by itself.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.clustering import assign
from penjing.maths.repair import RIDGE, ridged
from penjing.maths.stored import Scheme, quantize
from penjing.model.coded import Coded

BLOCK = 128
"""Columns that are worked on together, so that the rest is a product of matrices."""
SWEEPS = 3
"""Passes over all the columns after the first that choose each code anew."""


@torch.no_grad()
def quantize_with_inputs(w: Float[Tensor, "R K"], gram: Float[Tensor, "_ _"], scheme: Scheme, seed: int = 0) -> Coded:
    """The codes of w (R, K), on the values that `quantize(w, scheme, seed)` may take, with little error on inputs of gram H (K, K).

    No row has a larger error (w - q)·H·(w - q)ᵀ than plain rounding gives it. First column after column, each error passed
    on to the columns after it (OPTQ, Frantar et al. 2023, section 3), those with the largest inputs first; then `SWEEPS`
    sweeps of coordinate descent (QuantEase, Behdin et al. 2023, section 3.1).
    """
    if w.ndim != 2 or gram.shape != (w.shape[1],) * 2 or not torch.isfinite(gram).all():
        raise InputError(f"gram: {list(gram.shape)} does not fit weights {list(w.shape)}; give the finite second moments of the inputs")
    plain = quantize(w, scheme, seed)
    if not w.numel() or not gram.any():
        return plain
    H = gram.double()
    tables = _tables(plain)
    group = plain.group or w.shape[1]
    codes = _pass_on(w.float(), H, tables, group)
    for _ in range(SWEEPS):
        codes = _sweep(w.float(), H.float(), tables, group, codes)
    first = torch.from_numpy(plain.codes)
    better = _errors(w, H, tables, group, codes) < _errors(w, H, tables, group, first)
    return replace(plain, codes=torch.where(better[:, None], codes, first).numpy())


def _tables(coded: Coded) -> Tensor:
    """The values that each code stands for, ascending: (R, groups of a row, codes), of the codes that are in use."""
    K = coded.shape[1]
    starts = range(0, K, coded.group or K)
    tables = [replace(coded, codes=np.full_like(coded.codes, code)).values()[:, starts] for code in range(int(coded.codes.max()) + 1)]
    return torch.from_numpy(np.stack(tables, -1))


def _values(tables: Tensor, group: int, codes: Tensor) -> Tensor:
    """Q (R, K) of codes (R, K)."""
    places = torch.arange(codes.shape[1]) // group
    rows = torch.arange(len(codes))[:, None]
    return tables[rows, places, codes.long()]


def _errors(W: Tensor, H: Tensor, tables: Tensor, group: int, codes: Tensor) -> Tensor:
    """(w - q)·H·(w - q)ᵀ of each row."""
    E = W.double() - _values(tables, group, codes)
    return ((E @ H) * E).sum(1)


def _pass_on(W: Tensor, H: Tensor, tables: Tensor, group: int) -> Tensor:
    """Codes (R, K), column by column from the largest of H's diagonal; what column j misses, later columns make up for.

    With U the upper Cholesky factor of H⁻¹: w ← w - (w_j - q_j) / U_jj · U_j (OPTQ, equation 4), on the columns of a block
    at once, and on those after it when the block is done.
    """
    order = H.diagonal().argsort(descending=True, stable=True)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(ridged(H, RIDGE)[order][:, order])), upper=True).float()
    W = W[:, order]
    codes = torch.empty(W.shape, dtype=torch.uint8)
    for columns in torch.arange(len(order)).split(BLOCK):
        start, end = int(columns[0]), int(columns[-1]) + 1
        missed = torch.empty(len(W), end - start)
        for j in range(start, end):
            place = int(order[j])
            codes[:, place], q = _nearest(W[:, j], tables[:, place // group])
            missed[:, j - start] = (W[:, j] - q) / U[j, j]
            W[:, j:end] -= missed[:, j - start, None] * U[j, j:end]
        W[:, end:] -= missed @ U[start:end, end:]
    return codes


def _sweep(W: Tensor, H: Tensor, tables: Tensor, group: int, codes: Tensor) -> Tensor:
    """Codes (R, K) with each column in turn the best there is for the others as they are: no row's error grows."""
    codes = codes.clone()
    E = W - _values(tables, group, codes)
    for columns in torch.arange(H.shape[1]).split(BLOCK):
        start, end = int(columns[0]), int(columns[-1]) + 1
        G = E @ H[:, start:end]
        for j in range(start, end):
            if H[j, j] <= 0:
                continue
            # The error is H_jj·(q - t)² and what does not depend on q.
            t = W[:, j] - E[:, j] + G[:, j - start] / H[j, j]
            codes[:, j], q = _nearest(t, tables[:, j // group])
            change = W[:, j] - q - E[:, j]
            E[:, j] += change
            G += change[:, None] * H[j, start:end]
    return codes


def _nearest(w: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row, the code and the value in its table (R, codes) that is nearest to w (R,)."""
    code = assign(w[:, None].contiguous(), table)
    return code[:, 0], table.gather(1, code.long())[:, 0]
