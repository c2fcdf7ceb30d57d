"""The product of a job whose result is an encoder: its forms, files and parity."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from penjing.blueprint import Blueprint
from penjing.engines.exits import Leaving, never
from penjing.engines.form import DEPLOYED, FLOAT_FORMS, MODEL, PORTABLE_FLOAT, PORTABLE_INT8, Form, Rounding, rounding_of
from penjing.engines.network import Deployed, Ranges
from penjing.engines.onnx.export import export, network_of
from penjing.engines.onnx.packed import write_network
from penjing.engines.onnx.segments import ends_of, write_segments
from penjing.engines.opening import EngineKind, forms_for, open_engine
from penjing.engines.parity import NO_NUMBER, PARITY, differences
from penjing.job.leaving import Leave
from penjing.model.building import blueprint_of
from penjing.model.coded import Coded
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.writing import write
from penjing.steps.bits.sensitivity import emulated
from penjing.steps.product import Product
from penjing.tasks.data import Data
from penjing.text.encoded import Encoded, Logits
from penjing.training.predict import logits_of


@final
@dataclass(frozen=True)
class EncoderProduct(Product):
    """A finished encoder.

    coded: the codes of matrices in few bits. layers: numbers of the teacher's layers that it has. ranges, float_layers: of int8; None: in
    float. rounding: the requested rounding of activations; None: any. packs: whether its folder is packed even without codes. segments:
    whether texts come in pairs. fixed: the forms, where they are not those of the engine. leave: how texts leave early; None: never.
    """

    model: PenjingPreTrainedModel
    coded: Mapping[str, Coded] | None
    layers: Sequence[int]
    ranges: Ranges | None
    float_layers: frozenset[str]
    engine: EngineKind | None
    rounding: Rounding | None
    packs: bool
    segments: bool
    fixed: tuple[Form, ...] = ()
    leave: Leave | None = None

    @property
    def forms(self) -> list[Form]:
        forms = list(self.fixed) or forms_for(self.engine, int8=self.ranges is not None, rounding=self.rounding)
        early = self._early(forms)
        if self.coded is not None and not self.fixed:
            forms = [replace(form, packed=form.engine != "torch") for form in forms]
        return [*forms, *early]

    def _early(self, forms: Sequence[Form]) -> list[Form]:
        """The forms that texts leave early, for these that run one graph; their graphs are written out though others are packed."""
        return self.leave.forms(forms, len(ends_of(blueprint_of(self.model)))) if self.leave else []

    @property
    def portable(self) -> str:
        """The portable file, of standard operators."""
        return PORTABLE_FLOAT if self.ranges is None else PORTABLE_INT8

    def logits(self, encoded: Encoded) -> Logits:
        return logits_of(self.model, encoded)

    def export(self, folder: Path, data: Data) -> int:
        """Write every form's file and the portable one; in a packed folder the engine builds them from the weights."""
        forms = self.forms
        if self.coded is not None:
            coded = {name.removeprefix("encoder."): matrix for name, matrix in self.coded.items()}
            write_network(network_of(self.model), coded, folder, ranges=self.ranges, segments=self.segments, float_layers=self.float_layers)
        files: list[str | Form] = [form for form in forms if not form.packed and form.file != MODEL and form.engine != "exits"]
        if self.coded is None:
            files.append(self.portable)
        if any(form.file == MODEL and not form.packed for form in forms):
            write(self.model, folder / MODEL, packed=self.coded is not None, coded=self.coded)
        export(self.model, folder, files, self.ranges, segments=self.segments, float_layers=self.float_layers)
        deployed = Deployed(network_of(self.model), self.ranges, self.segments, tuple(self.float_layers))
        for form in forms:
            if form.engine == "exits" and self.leave:
                self.leave.write(deployed, folder, form)
        return sum((folder / name).stat().st_size for name in (DEPLOYED if self.coded is not None else [self.portable]))

    def in_float(self) -> Product | None:
        if self.ranges is None or self.rounding is not None:
            return None
        engines = {form.engine for form in self.forms}
        forms = tuple(replace(form, packed=self.coded is not None) for form in FLOAT_FORMS if form.engine in engines)
        return replace(self, ranges=None, float_layers=frozenset(), fixed=forms)

    def differences(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        engines = {form.engine for form in self.forms}
        torch_forms = [
            form for form in self.forms if form.engine == "torch"
        ]  # beside PyTorch's the folder gets every engine's portable file
        floats = [form for form in FLOAT_FORMS if form.engine in engines or torch_forms] + torch_forms
        if not floats:  # a user's own engine, which has its own forms
            floats = forms_for(self.engine, int8=False)
        with tempfile.TemporaryDirectory() as folder:
            export(self.model, Path(folder), floats, segments=self.segments)
            early = self._early(floats)
            for form in early:
                write_segments(Deployed(network_of(self.model), None, self.segments), Path(folder), form)
                Leaving(ends_of(blueprint_of(self.model))).write(Path(folder) / form.file)
            return differences(self.logits(texts), texts, Path(folder), [*floats, *early], threads)

    def apart(self, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
        return apart(self, texts, exported, threads) if self.ranges is not None else {}

    def write_model(self, folder: Path, tokenizer: Path, extra: Mapping[str, str]) -> None:
        packed = self.packs or self.coded is not None
        write(self.model, folder, tokenizer=tokenizer, extra=dict(extra), packed=packed, coded=self.coded)

    @property
    def blueprint(self) -> Blueprint:
        """The blueprint, with the average bits of a stored weight."""
        if self.coded is None:
            return replace(blueprint_of(self.model), bits=32 if self.ranges is None else 8)
        sizes = [(matrix.bits, matrix.codes.size) for matrix in self.coded.values()]
        return replace(blueprint_of(self.model), bits=round(sum(bits * n for bits, n in sizes) / sum(n for _, n in sizes)))

    @property
    def parameters(self) -> int:
        return self.blueprint.parameters


def apart(product: EncoderProduct, texts: Encoded, exported: Path, threads: int) -> dict[str, float]:
    """The distance of the exported integers' logits from their emulation in PyTorch, by int8 form.

    The root mean square difference, as a multiple of that between the emulation and float32.
    """
    own = _flat(product.logits(texts))
    result = dict[str, float]()
    for form in product.forms:
        rounding = rounding_of(form)
        if rounding == "float" or form.engine == "torch":
            continue
        expected = _flat(emulated(product.model, texts, product.ranges if rounding == "static" else None, product.float_layers))
        exported_logits = _flat(never(open_engine(form, exported, threads)).logits(texts))
        ratio = _rms(exported_logits - expected) / max(PARITY, _rms(expected - own))
        result[form.name] = ratio if np.isfinite(ratio) else NO_NUMBER
    return result


def _flat(rows: Logits) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in rows]).astype(np.float64)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
