"""Checkpoints: configuration, head, labels and weights of a model folder, each read once, and the model itself.

A folder of Hugging Face's or of our own format gives our encoder with the checkpoint's weights, in float32.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from penjing.blueprint import HEADS, Blueprint, Head, head_named
from penjing.errors import InputError, reason_of
from penjing.model.building import build
from penjing.model.configuration import Configuration, first_position, numbered, read_configuration, translate
from penjing.model.families import Family
from penjing.model.modeling_penjing import PenjingConfig, PenjingPreTrainedModel
from penjing.model.weights import Shapes, load_weights, refuse_adapter, shapes_of

POSITION = "encoder.embeddings.position.weight"
_DOES = {"text": "labels texts", "token": "labels words", "span": "answers questions", "word": "is a language model"}
"""Descriptions of models with a head, by what the head answers; for messages."""


def locate(model: "str | Path | Checkpoint", pickle: bool = False) -> Path:
    """The folder of a checkpoint: itself, or a hub id's snapshot (downloaded, or from the local cache)."""
    if isinstance(model, Checkpoint):
        return model.folder
    path = Path(model)
    if path.is_dir():
        refuse_adapter(path)
        if not (path / "config.json").is_file():
            raise InputError(f"model: {path} has no config.json; give the folder that save_pretrained wrote")
        return path
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(model)):
        raise InputError(f"model: {model} is no folder with a model; give a folder or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(model), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", *(["pytorch_model*.bin"] if pickle else [])]
            )
        )
    except Exception as error:
        raise InputError(f"model: {model} is no folder here, and the hub did not give it ({reason_of(error)})") from error


@dataclass(frozen=True)
class Matched:
    """A configuration matched with the weights beside it.

    `stored`: our name of each parameter → the name in the files, and `unused` the names that no head of ours reads.
    """

    configuration: Configuration
    config: PenjingConfig
    blueprint: Blueprint
    stored: Mapping[str, str]
    unused: Sequence[str]


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder: its config.json is read at once, the names and shapes of its weights on demand.

    pickle: whether weights may be read from a `pytorch_model.bin`.
    """

    configuration: Configuration
    pickle: bool = False

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.configuration.folder

    @property
    def family(self) -> Family | None:
        """The model family; None in our own format."""
        return self.configuration.family

    @property
    def is_own(self) -> bool:
        """Whether it is in our own format, rather than plain Hugging Face."""
        return self.family is None

    @cached_property
    def shapes(self) -> Shapes:
        """Name → shape of every weight in the files."""
        return shapes_of(self.folder, self.pickle)

    @cached_property
    def head(self) -> Head:
        """The head: that of the class in the configuration, or else by the names of the weights."""
        return _head_of(self.configuration, lambda: self.shapes)

    @cached_property
    def _translated(self) -> tuple[PenjingConfig, Blueprint]:
        return translate(self.configuration, self.head, None)

    @property
    def config(self) -> PenjingConfig:
        """The configuration, translated to `PenjingConfig`."""
        return self._translated[0]

    @property
    def blueprint(self) -> Blueprint:
        """The blueprint, from the configuration (and the names of the weights, where it names no class)."""
        return self._translated[1]

    @cached_property
    def _encoder(self) -> tuple[PenjingConfig, Blueprint]:
        return translate(self.configuration, HEADS["none"], None)

    @property
    def encoder(self) -> Blueprint:
        """The blueprint without the head, from the configuration alone."""
        return self._encoder[1]

    @property
    def positions(self) -> int:
        """The most tokens of a text."""
        return self.encoder.positions

    @property
    def unplaced(self) -> int | None:
        """The token that takes no position; None: all do."""
        return self._encoder[0].pad_token_id if self.family and self.family.pads_positions else None

    @property
    def activation(self) -> str:
        """The activation of its feed-forward layers."""
        return self._encoder[0].hidden_act

    @property
    def label_names(self) -> list[str]:
        """Its own label names, in order; empty where it has none beside LABEL_0, LABEL_1…"""
        return self.configuration.named()

    @property
    def labels(self) -> list[str]:
        """The names of the outputs, in order; LABEL_0, LABEL_1, … where it names none."""
        outputs = self.blueprint.outputs  # where they contradict the names, this says so
        return self.configuration.labels() or numbered(outputs)

    @property
    def problem_type(self) -> str | None:
        """The problem type of its outputs: one label of several, several labels, or numbers; None where it is not given."""
        return self.configuration.problem_type

    @cached_property
    def matched(self) -> Matched:
        """The matched weights; an `InputError` where some are missing, or would be left out."""
        return _matched(self.configuration, self.shapes)

    def check_head(self, head: Head | str, task: str, option: str = "model") -> None:
        """Check that the head is trained for a task with one label of several, of each text or word; else `InputError`.

        A head of one output (regression) has no second label to choose, and the outputs of a multi-label head do not exclude one another.
        """
        if self.head != head_named(head):
            does = f"{_DOES[self.head.answers]} and " if self.head.answers in _DOES else ""
            raise InputError(f"{option}: {self.folder} {does}has no trained head for {task}; make one with penjing train")
        kind = self.problem_type
        outputs = self.configuration.label_count()
        if outputs < 2 or kind not in (None, "single_label_classification"):
            raise InputError(
                f"{option}: {self.folder} answers with {outputs} {'output' if outputs == 1 else 'outputs'}{f' ({kind})' if kind else ''}, and"
                f" {task} takes one label of at least two; give a model that was trained for that, or make one with penjing train"
            )

    def check_numbers(self) -> None:
        """Check that the weights are finite, and those of the configuration; else `InputError`."""
        _state(self.matched, load_weights(self.folder, self.pickle))

    def read(self, *, head: Head | str | None = None, labels: list[str] | None = None) -> PenjingPreTrainedModel:
        """The model as our encoder in float32, in eval mode.

        Whatever is read is whole: an `InputError` names the weight that is missing, that would be left out, or that is no number.

        Args:
            head: the head wanted; None takes the checkpoint's. A head that the checkpoint lacks is new, drawn at random.
            labels: names of the outputs; None keeps the checkpoint's. Another set than the checkpoint's gives a new head.
        """
        configuration = self.configuration
        weights = load_weights(self.folder, self.pickle)
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        own = _head_of(configuration, lambda: shapes)
        wanted = own if head is None else head_named(head)
        known = _matched(configuration, shapes, without_head=wanted != own)
        state = _state(known, weights)
        if wanted == own and labels is None:
            config = known.config
            blueprint = known.blueprint
        else:
            config, blueprint = translate(configuration, wanted, labels)
        same_head = wanted == own and blueprint.outputs == known.blueprint.outputs
        named = configuration.labels() or numbered(known.blueprint.outputs)
        if same_head and labels and set(labels) == set(named):
            order = [named.index(name) for name in labels]
            state |= {name: state[name][order] for name in _parameters(blueprint, of_outputs=True)}
        elif same_head and labels and configuration.named():
            same_head = False
        if not same_head:
            # What comes before the outputs is kept for new ones, as Hugging Face does; BERT's is its pooler, which every BERT may have.
            dense = {name: state[name] for name in _parameters(blueprint, of_outputs=False)} if wanted == own else {}
            dense |= _pooler(known, weights) if wanted.pooled and not wanted.own and wanted != own else {}
            state = {name: value for name, value in state.items() if name.startswith("encoder.")} | dense
        if wanted.bare:
            state = {name.removeprefix("encoder."): value for name, value in state.items()}
        result = build(blueprint, config)
        result.load_state_dict(state, strict=False)
        return result


def open_checkpoint(model: str | Path | Checkpoint, pickle: bool = False) -> Checkpoint:
    """Open a checkpoint by its folder or hub id; `InputError` where there is none, or its configuration is not supported.

    An opened checkpoint is returned as it is.
    """
    return model if isinstance(model, Checkpoint) else Checkpoint(read_configuration(locate(model, pickle)), pickle)


def read(
    model: str | Path | Checkpoint, *, head: Head | str | None = None, labels: list[str] | None = None, pickle: bool = False
) -> PenjingPreTrainedModel:
    """`Checkpoint.read` of a folder or hub id, of any supported family or of our own format."""
    return open_checkpoint(model, pickle).read(head=head, labels=labels)


# -- the weights of a configuration ------------------------------------------------------------------------------


def _matched(configuration: Configuration, shapes: Shapes, *, without_head: bool = False) -> Matched:
    """`without_head`: of the encoder alone; the weights of its head may be there or not."""
    own = _head_of(configuration, lambda: shapes)
    head = HEADS["none"] if without_head else own
    config, blueprint = translate(configuration, head, None)
    if len(blueprint.distinct) > len(shapes):  # before anything is built so deep
        raise InputError(f"model: {configuration.folder} has {len(shapes)} weights, and its configuration {len(blueprint.layers)} layers")
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in build(blueprint, config).state_dict().items()}
    except Exception as error:  # sizes beyond what torch counts to
        raise InputError(
            f"model: no model can have the sizes that {configuration.folder / 'config.json'} says ({reason_of(error)})"
        ) from error
    if head.bare:
        expected = {f"encoder.{name}": shape for name, shape in expected.items()}
    stored, unused = _stored(configuration, blueprint, own, expected, shapes)
    first = first_position(configuration.family, config)
    for name, file_name in stored.items():
        shape = expected[name]
        if first and name == POSITION:
            shape = (shape[0] + first, *shape[1:])
        if shapes[file_name] != shape:
            raise InputError(
                f"model: {configuration.folder}: {file_name} has the shape {shapes[file_name]}, and the configuration says {shape}"
            )
    return Matched(configuration, config, blueprint, stored, unused)


def _stored(
    configuration: Configuration, blueprint: Blueprint, head: Head, expected: Collection[str], shapes: Shapes
) -> tuple[dict[str, str], list[str]]:
    """Our name of each parameter → the name in the files, and the names that are left; a missing or a strange one is an `InputError`.

    head: the one that the files have; where it is not the blueprint's, its weights may be left.
    """
    folder = configuration.folder
    family = configuration.family
    if family is None:
        names = {name: name.removeprefix("encoder.") if head.bare else name for name in expected}
        present = {name: name for name in shapes}
    else:
        prefix = family.weight_prefix if any(name.startswith(family.weight_prefix) for name in shapes) else ""
        names = family.names(blueprint, prefix)
        if not prefix:  # saved without a head: its pooler has no prefix either
            names = {name: family_name.removeprefix(family.weight_prefix) for name, family_name in names.items()}
        present = {_modern(name): name for name in shapes}
        if len(present) < len(shapes):
            raise InputError(f"model: {folder} holds norms by their old names (gamma, beta) and by the new ones; leave one of the two")
    missing = [name for name in names.values() if name not in present]
    if missing:
        whole = family.names(blueprint, family.weight_prefix) if family else names
        wrapped = _wrapper(whole.values(), present) or _wrapper(names.values(), present)
        if wrapped:
            raise InputError(
                f"model: the names of the weights in {folder} begin with {wrapped!r}, as torch.compile, DataParallel, Lightning or an adapter"
                f" leave them; save the model that is inside, or take {wrapped!r} off every name"
            )
        raise InputError(f"model: {folder} lacks {len(missing)} weights of its own configuration, the first {missing[0]}; copy it again")
    unused = sorted(present.keys() - set(names.values()))
    left = blueprint.head != head

    def known(name: str) -> bool:
        return (
            left and name.startswith(("head.", "exits."))
            if family is None
            else family.unused(name) or (left and family.of_head(name, head))
        )

    strange = [name for name in unused if not known(name)]
    if strange:
        raise InputError(
            f"model: {folder} has {len(strange)} weights that {configuration.class_prefix} with its configuration has not, the first"
            f" {present[strange[0]]}; they would be left out, so give a model without them"
        )
    return {name: present[file_name] for name, file_name in names.items()}, [present[name] for name in unused]


def _modern(name: str) -> str:
    """TensorFlow's names of the norms as they are today, as transformers reads them."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _wrapper(wanted: Collection[str], present: Collection[str]) -> str:
    """The prefix that most of the wanted names have in the files; "" where they have none."""
    first = next(iter(wanted))
    fronts = {name.removesuffix(first) for name in present if name.endswith(f".{first}")}
    return next((front for front in sorted(fronts) if 2 * sum(front + name in present for name in wanted) > len(wanted)), "")


def _state(known: Matched, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict by our parameter names, with the stored head, from the files' weights."""
    state = {parameter: weights[file_name] for parameter, file_name in known.stored.items()}
    for parameter, value in state.items():
        name = f"model: {known.configuration.folder}: {known.stored[parameter]}"
        if not value.is_floating_point() or value.layout != torch.strided or value.is_quantized:
            raise InputError(f"{name} is stored as {value.dtype}; give a model that is not quantized, in float32, float16 or bfloat16")
        if not torch.isfinite(value).all():
            raise InputError(f"{name} holds what is no number (NaN or infinite); the training that made it failed: give another checkpoint")
    _check_tied(known, weights)
    first = first_position(known.configuration.family, known.config)
    return state | {POSITION: state[POSITION][first:]}


def _check_tied(known: Matched, weights: Mapping[str, Tensor]) -> None:
    """A language model's head takes the word embedding for its outputs: where the file has others, they would be left out."""
    family = known.configuration.family
    if family is None or known.blueprint.head.answers != "word":
        return
    for name, ours in ((f"{family.decoder}.weight", "encoder.embeddings.word.weight"), (f"{family.decoder}.bias", "head.bias")):
        if name in weights and not torch.equal(weights[name], weights[known.stored[ours]]):
            raise InputError(
                f"model: {known.configuration.folder}: {name} is another than {known.stored[ours]}, and only a tied one is supported"
            )
    untied = known.configuration.fields.get("tie_word_embeddings") is False
    if untied and f"{family.decoder}.weight" not in weights:
        raise InputError(
            f"model: {known.configuration.folder} lacks {family.decoder}.weight, and says tie_word_embeddings false; copy it again"
        )


def _pooler(known: Matched, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's pooler, of a checkpoint whose head does not take it; empty where it has none that fits, or another family none at all."""
    family = known.configuration.family
    width = known.blueprint.hidden
    if family is None or not family.pools:
        return {}
    dense = family.heads["sequence"]["head.dense"]
    result = {}
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        name = next((name for name in (f"{dense}.{part}", f"{dense.removeprefix(family.weight_prefix)}.{part}") if name in weights), None)
        if name is None:
            return {}
        if tuple(weights[name].shape) != shape or not weights[name].isfinite().all():
            raise InputError(
                f"model: {known.configuration.folder}: {name} is no pooler of finite numbers and the shape {shape}; copy it again"
            )
        result[f"head.dense.{part}"] = weights[name]
    return result


def _parameters(blueprint: Blueprint, *, of_outputs: bool) -> list[str]:
    """The parameters of all heads of which each row gives an output, or the others."""
    names = [parameter.name for parameter in blueprint.head.parameters if ("outputs" in parameter.axes) == of_outputs]
    return [f"{head}.{name}" for head in blueprint.heads for name in names]


def _head_of(configuration: Configuration, shapes: Callable[[], Shapes]) -> Head:
    """The head of the class in the configuration, or else by the names of the weights."""
    if configuration.head is not None:
        return configuration.head
    if configuration.family is None:
        raise InputError(f"model: {configuration.folder / 'config.json'} names no class (architectures); copy it again")
    head = configuration.family.head_of({_modern(name) for name in shapes()})
    if head.pooled and configuration.family.pools and "O" in configuration.labels():
        raise InputError(
            f"model: the weights in {configuration.folder} may label texts or words; name its class by architectures in config.json, as"
            f" {configuration.family.class_prefix}ForTokenClassification"
        )
    return head
