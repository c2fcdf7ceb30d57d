"""A model as numpy arrays: what an engine's own files are written from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penjing.blueprint import Blueprint

Ranges = dict[str, tuple[float, float]]
"""Calibrated [low, high] of the input of each linear layer, by the layer's name."""


@dataclass(frozen=True)
class Network:
    """What a graph is made from: sizes, named weights (names as in modeling_penjing.py, without `encoder.`), functions."""

    blueprint: Blueprint
    weights: dict[str, NDArray[np.float32]]
    activation: str
    head_activation: str
    epsilon: float


@dataclass(frozen=True)
class Deployed:
    """A network and how it was calibrated: everything that its files are made from.

    `ranges`: None where it is run in float alone. `segments`: whether texts come in pairs. `float_layers`: what
    int8 leaves in float (`build_graph`).
    """

    network: Network
    ranges: Ranges | None
    segments: bool
    float_layers: tuple[str, ...] = ()
