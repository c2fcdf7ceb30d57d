"""The result of a training: the student, the training history, and the by-products of a step that trains while it cuts or rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penjing.engines.network import Ranges
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.selection import Selection
from penjing.training.state import History


@dataclass(frozen=True)
class Taught:
    """A trained student and its history.

    ranges: [low, high] of the inputs of the linear layers, where the student was trained in int8. coded: the codes of each matrix, where
    it was trained in few bits. selection: what was kept of the blueprint, where the training pruned structure. others: the trained
    students of further tasks that share the encoder, or those that it learned from and with.
    """

    model: PenjingPreTrainedModel
    history: History
    ranges: Ranges | None = None
    coded: Mapping[str, Coded] | None = None
    selection: Selection | None = None
    others: Sequence[PenjingPreTrainedModel] = ()
