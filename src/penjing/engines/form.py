"""A `Form`: the declared way in which a model is run, as data; the names of its files, and the forms that are tried.

Nothing of an engine is imported here: what runs a form is in `opening.py`.
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from penjing.files.whole import Json

ENGINES = {
    "onnxruntime": "penjing.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "penjing.engines.openvino:OpenVinoEngine",
    "torch": "penjing.engines.pytorch:TorchEngine",
    "numpy": "penjing.engines.numpy:NumpyEngine",
    "exits": "penjing.engines.exits:ExitsEngine",
    "cascade": "penjing.engines.cascade:CascadeEngine",
}
"""The class of each engine by name. A form may name another engine as "module:Class", which is not in this table."""
GRAPH_ENGINES = ("onnxruntime", "openvino")
"""Those of the table that run ONNX graphs."""

FEEDS = ("input_ids", "token_type_ids", "attention_mask")
"""The names of an engine's inputs."""

PORTABLE_INT8 = "model.onnx"
PORTABLE_FLOAT = "float32.onnx"
PORTABLE = (PORTABLE_INT8, PORTABLE_FLOAT)
"""ONNX files of standard operators: int8, float32."""
FUSED_INT8 = "fused-int8.onnx"
FUSED_FLOAT = "fused-float32.onnx"
FUSED = (FUSED_INT8, FUSED_FLOAT)
"""ONNX files of ONNX Runtime's own operators: int8, float32."""
DEPLOYED = ("weights.safetensors", "network.json")
"""The files that every packed form of a folder is built from."""
MODEL = "model"
"""The folder of a model: inside a stage's folder, that of `Student.fit`, and that of a form that PyTorch runs."""
TOKENIZER = "tokenizer.json"

Rounding = Literal["dynamic", "static", "float"]
ROUNDINGS: dict[str, Rounding] = {PORTABLE_INT8: "static", FUSED_INT8: "dynamic"}
"""How the int8 files round activations."""
INT8_FILES = tuple(ROUNDINGS)
BUCKET = 8


@dataclass(frozen=True)
class Form:
    """How a model is run: engine, file (relative to its folder; for torch the folder itself), and the engine's options.

    `engine`: a name in `ENGINES`, or the "module:Class" of an engine that is not in that table.
    `bucket`: OpenVINO compiles static shapes, lengths rounded up to a multiple of it; 0 leaves the length dynamic.
    `more`: further files that it is loaded from.
    `bfloat16`: what is float is computed in bfloat16 (OpenVINO: where it likes to; PyTorch: everywhere).
    `batch`: texts answered together; 1 where activations are rounded as they come, over the whole batch, so that an
    answer would depend on its neighbours, and where another batch size would compile another model.
    `packed`: `file` is not there: its graph is built from packed weights when the engine opens it (packed.py).
    """

    name: str
    engine: str
    file: str
    bucket: int = 0
    bfloat16: bool = False
    batch: int = 32
    packed: bool = False
    more: tuple[str, ...] = ()

    def to_dict(self) -> Json:
        """A JSON object; without `more` where there are none."""
        fields = asdict(self)
        return fields | {"more": list(self.more)} if self.more else {name: value for name, value in fields.items() if name != "more"}

    @property
    def portable(self) -> bool:
        """Whether it runs the portable file as it is: every length, no special options."""
        return self.file in PORTABLE and not self.bucket

    @property
    def int8(self) -> bool:
        """Whether it computes in int8, by one of our files."""
        return whole_file(self.file) in INT8_FILES

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is loaded from, relative to its folder."""
        return DEPLOYED if self.packed else (self.file, *self.more)


def rounding_of(form: Form) -> Rounding:
    """How the form rounds activations: over calibrated ranges, over those of each text, or not at all."""
    return ROUNDINGS.get(whole_file(form.file), "float")


EXITS = "exits-"
"""How the file of a form begins that a text may leave early: `exits-fused-int8.json` of `fused-int8.onnx`."""


def whole_file(file: str) -> str:
    """The ONNX file that is one graph where this one says how its segments are run; any other is itself."""
    return f"{file.removeprefix(EXITS).removesuffix('.json')}.onnx" if file.startswith(EXITS) and file.endswith(".json") else file


def leaving_early(form: Form, segments: int) -> Form:
    """The form of ONNX Runtime that runs the file of `form` in so many segments, each a graph of its own."""
    stem = f"{EXITS}{form.file.removesuffix('.onnx')}"
    graphs = tuple(f"{stem}-{number}.onnx" for number in range(1, segments + 1))
    return replace(form, name=f"{form.name}, exits", engine="exits", file=f"{stem}.json", more=graphs, packed=False)


def without_leaving(form: Form) -> Form:
    """The form that runs in one graph what this one runs in segments; any other is itself."""
    if form.engine != "exits":
        return form
    return replace(form, name=form.name.removesuffix(", exits"), engine="onnxruntime", file=whole_file(form.file), more=())


EAGER = Form("torch eager", "torch", "")
"""A model folder as Hugging Face runs it."""
EAGER_BF16 = Form("torch eager bf16", "torch", "", bfloat16=True)
"""The same in bfloat16."""

FLOAT_FORMS = (
    Form("onnxruntime float32", "onnxruntime", PORTABLE_FLOAT),
    Form("onnxruntime fused float32", "onnxruntime", FUSED_FLOAT),
    Form("openvino float32", "openvino", PORTABLE_FLOAT),
)
"""The forms in float32 that are tried, in this order."""
INT8_FORMS = (
    Form("onnxruntime fused int8", "onnxruntime", FUSED_INT8, batch=1),
    Form("onnxruntime int8", "onnxruntime", PORTABLE_INT8),
    Form("openvino int8", "openvino", PORTABLE_INT8),
    Form("openvino int8 buckets", "openvino", PORTABLE_INT8, bucket=BUCKET, batch=1),
    Form("openvino int8 buckets bf16", "openvino", PORTABLE_INT8, bucket=BUCKET, bfloat16=True, batch=1),
)
"""The forms in int8 that are tried, in this order."""
TORCH_FORMS = (Form("torch eager", "torch", MODEL),)
"""The forms that PyTorch runs."""


def forms_of_engine(engine: str | None, int8: bool) -> list[Form]:
    """The forms that are tried on an engine of the table, or on every one that runs graphs, in their order."""
    if engine == "torch":
        return list(TORCH_FORMS)
    return [form for form in (INT8_FORMS if int8 else FLOAT_FORMS) if engine in (None, form.engine)]
