"""What each head, neuron and hidden unit is worth: every criterion behind one signature, `(model, task, data, seed) -> Importance`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Scores, higher where more would be lost.

    `heads`, `neurons`: one array per layer. `hidden`: of the residual width's units, empty where nobody asked.
    `removed`: layers in the order in which they are missed least, empty where nobody asked.
    """

    heads: list[Scores]
    neurons: list[Scores]
    removed: list[int] = field(default_factory=list)
    hidden: Scores = field(default_factory=lambda: np.zeros(0))

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "heads": [a.tolist() for a in self.heads], "neurons": [a.tolist() for a in self.neurons],
            "removed": self.removed, "hidden": self.hidden.tolist(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Importance":
        """Read `to_dict`'s object."""
        heads, neurons = ([np.array(a) for a in fields[name]] for name in ("heads", "neurons"))
        return cls(heads, neurons, list(fields["removed"]), np.array(fields["hidden"]))
