"""Laws of every step on every model family: its input is kept, its plan is what comes out, and the result is written, read and exported."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, SPECIAL, half, perturb, tiny, tiny_tokenizer
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.engines.form import FLOAT_FORMS
from penjing.engines.onnx.export import export
from penjing.engines.opening import open_engine
from penjing.engines.parity import PARITY
from penjing.model.building import blueprint_of, build
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.bits.lowbit import LowBit
from penjing.steps.bits.qat import QuantizationAware
from penjing.steps.bits.store import StoreSettings, uniform
from penjing.steps.cut.criteria import CRITERIA
from penjing.steps.cut.gradual import GradualPrune, GradualSettings
from penjing.steps.cut.importance import Importance
from penjing.steps.cut.prune import Prune
from penjing.steps.cut.sparsify import Sparsify, SparsifySettings
from penjing.steps.cut.vocabulary import PruneVocabulary
from penjing.steps.reshape.activation import SwapActivation
from penjing.steps.reshape.attention import Attention
from penjing.steps.reshape.factorise import Factorise
from penjing.steps.reshape.positions import Positions
from penjing.steps.reshape.project import Project
from penjing.steps.reshape.share import Share
from penjing.steps.reshape.tokens import DropTokens
from penjing.steps.step import Step
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.mutual import Mutual, MutualSettings
from penjing.steps.teach.replace import Replace, ReplaceSettings
from penjing.steps.teach.self_distill import SelfDistill, SelfDistillSettings
from penjing.steps.teach.training import TrainingStep
from penjing.tasks.encoder import Encoder
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.training.loop import Schedule
from penjing.training.predict import logits_of
from penjing.training.taught import Taught

TASK = Classification(("no", "yes"))
TOKENIZER = tiny_tokenizer()
TOKENIZER.add_special_tokens(list(SPECIAL))  # as a checkpoint's tokenizer declares them: they are always kept
TEXTS = [
    "good film",
    "a bad plot",
    "it is fine.",
    "we love london",
    "dull food, poor room",
    "he was never late",
    "great!",
    "a very good song",
]
ONNXRUNTIME = FLOAT_FORMS[0]
UNUSUAL = "unusual"
"""A model of which one layer has another activation and runs twice, and others have each form of attention."""


def texts() -> Examples:
    return Encoder(TASK, TOKENIZER, 24).examples([{"text": text, "label": TASK.labels[i % 2]} for i, text in enumerate(TEXTS)])


def uneven(blueprint: Blueprint, _: Importance) -> Selection:
    """A selection of heads, neurons and hidden units."""
    return replace(half(blueprint), hidden=tuple(i for i in range(blueprint.hidden) if i % 5))


def distill(model: PenjingPreTrainedModel, folder: Path) -> Distill:
    """A training of two steps."""
    schedule = Schedule(epochs=1, batch_size=4, learning_rate=1e-2, patience=100)
    return Distill(TASK, Teachers(deepcopy(model)), DistillSettings(schedule, {"kl": 1.0, "states": 1.0}), texts(), Place(folder))


MakeStep = Callable[[PenjingPreTrainedModel, Path], Step[Any, Any]]
STEPS: dict[str, MakeStep] = {
    "prune": lambda model, folder: Prune(TASK, CRITERIA["fisher"].score, texts().encoded, choose=uneven),
    "vocabulary": lambda model, folder: PruneVocabulary(TASK, TOKENIZER, None),
    "factorise": lambda model, folder: Factorise(4),
    "project": lambda model, folder: Project(4, "sparse"),
    "share": lambda model, folder: Share(len(blueprint_of(model).layers) - 1, "sequence", "least-squares"),
    "window": lambda model, folder: Attention("window", 2, "1-2"),
    "low-rank": lambda model, folder: Attention("low-rank", 4, "1-2"),
    "fixed": lambda model, folder: Attention("fixed", 2, "1-2"),
    "activation": lambda model, folder: SwapActivation("relu"),
    "positions": lambda model, folder: Positions(20, 5),
    "tokens": lambda model, folder: DropTokens(percent=70),
    "distill": distill,
    "mutual": lambda model, folder: Mutual(distill(model, folder), MutualSettings()),
    "self-distill": lambda model, folder: SelfDistill(distill(model, folder), SelfDistillSettings()),
    "gradual": lambda model, folder: GradualPrune(distill(model, folder), GradualSettings(0.4), 6),
    "replace": lambda model, folder: Replace(distill(model, folder), ReplaceSettings()),
    "sparsify": lambda model, folder: Sparsify(distill(model, folder), SparsifySettings(0.5)),
    "qat": lambda model, folder: QuantizationAware(distill(model, folder), texts()),
    "low-bit": lambda model, folder: LowBit(distill(model, folder), uniform(model, StoreSettings(group=8)), 8),
}  # fmt: skip
KEEP_WEIGHTS = {"tokens": True}
"""Of the steps without a training: whether the result has the weights of the model."""


@dataclass(frozen=True)
class Case:
    """A step applied to a model; `states`: the model's weights at the start and after observe, plan and apply."""

    name: str
    before: Blueprint
    states: list[dict[str, Tensor]]
    plan: Blueprint | Selection
    result: PenjingPreTrainedModel
    taught: Taught | None


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PenjingPreTrainedModel]:
    """A tiny model of ours of each family, by the family's name; and one of unusual layers."""

    def teacher(family: str) -> PenjingPreTrainedModel:
        folder = tmp_path_factory.mktemp(family)
        tiny("bert" if family == UNUSUAL else family, vocab_size=TOKENIZER.get_vocab_size(), num_labels=len(TASK.labels)).save_pretrained(
            folder
        )
        model = read(folder)
        if family != UNUSUAL:
            return model
        blueprint = blueprint_of(model)
        relu, usual = replace(blueprint.layers[0], activation="relu"), blueprint.layers[1]
        forms = (("window", 2), ("low-rank", 4), ("fixed", 2))
        layers = (usual, usual, relu, replace(relu, shares=2), *(replace(usual, attention=form, span=span) for form, span in forms))
        return perturb(build(replace(blueprint.with_layers(layers), position_rank=4), model.config))  # type: ignore[no-any-return]

    return teacher


@pytest.fixture(scope="module", params=[(name, family) for name in STEPS for family in (*FAMILIES, UNUSUAL)], ids="-".join)
def case(
    request: pytest.FixtureRequest, teachers: Callable[[str], PenjingPreTrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    name, family = request.param
    model = teachers(family)
    before = blueprint_of(model)
    step = STEPS[name](model, tmp_path_factory.mktemp(name))
    states = [deepcopy(model.state_dict())]
    evidence = step.observe(model, texts())
    states.append(deepcopy(model.state_dict()))
    plan = step.plan(before, evidence)
    states.append(deepcopy(model.state_dict()))
    taught: list[Taught] = []
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(step, TrainingStep):
            teach = type(step).teach

            def kept(self: Any, model: PenjingPreTrainedModel, evidence: Any) -> Taught:
                taught.append(teach(self, model, evidence))
                return taught[-1]

            patch.setattr(type(step), "teach", kept)
        result = step.apply(model, plan, evidence)
    states.append(deepcopy(model.state_dict()))
    yield Case(name, before, states, plan, result, taught[0] if taught else None)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_model_is_untouched_and_the_result_is_another(case: Case) -> None:
    assert all(same(case.states[0], state) for state in case.states[1:])
    assert same(case.states[0], case.result.state_dict()) == KEEP_WEIGHTS.get(case.name, False)


def test_the_result_has_the_blueprint_that_the_plan_tells(case: Case) -> None:
    told = case.plan.plan(case.before) if isinstance(case.plan, Selection) else case.plan
    if case.name == "quantize":  # the model stays in float: bits are of the file that is exported
        assert told.bits == 8
        told = replace(told, bits=32)
    if case.taught:  # what a training cuts is known only afterwards
        assert told == case.before and (case.taught.selection is not None) == (case.name == "gradual")
        told = case.taught.selection.plan(case.before) if case.taught.selection else told
    assert blueprint_of(case.result) == told
    assert (told != case.before) == (case.name not in ("distill", "mutual", "self-distill", "replace", "sparsify", "qat", "low-bit"))


def test_the_result_is_written_and_read_with_equal_logits(case: Case, tmp_path: Path) -> None:
    write(case.result, tmp_path / "model")
    again = read(tmp_path / "model")
    assert blueprint_of(again) == blueprint_of(case.result)
    encoded = readable(case)
    for one, other in zip(logits_of(case.result, encoded), logits_of(again, encoded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_result_is_exported_within_parity(case: Case, tmp_path: Path) -> None:
    export(case.result, tmp_path, [ONNXRUNTIME], segments=False)
    encoded = readable(case)
    answers = open_engine(ONNXRUNTIME, tmp_path, 1).logits(encoded)
    apart = [np.abs(one - other).max() for one, other in zip(logits_of(case.result, encoded), answers, strict=True)]
    assert max(apart) <= PARITY


def readable(case: Case) -> Any:
    """The texts, by the token numbers that are left."""
    encoded = texts().encoded
    tokens = case.plan.tokens if isinstance(case.plan, Selection) else None
    return encoded if tokens is None else replace(encoded, ids=np.searchsorted(tokens, encoded.ids).astype(np.int32))
