"""Fine-tune a pretrained encoder on a task: how a teacher is made."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from penjing.errors import InputError
from penjing.files.run import TRAINING, vacant
from penjing.files.whole import move_up, sweep
from penjing.model.checkpoint import read
from penjing.model.writing import write
from penjing.tasks.task import Examples, Task
from penjing.training.loop import Progress, Schedule, fit, silent
from penjing.training.predict import evaluator, labels_loss
from penjing.training.state import History


@dataclass(frozen=True)
class Split:
    """Texts to learn from, texts held out that the best weights are chosen on, and evaluation data, which is read once, at the end."""

    train: Examples
    dev: Examples
    eval: Examples


def finetune(
    model: str | Path,
    task: Task,
    split: Split,
    out: Path,
    schedule: Schedule,
    *,
    pickle: bool = False,
    progress: Progress = silent,
) -> tuple[History, float]:
    """Train on labels, keep the weights that were best on `dev`, and write them to `out/` as a Hugging Face folder.

    Returns the history, whose `best` is of `dev`, and the quality on `eval`, which is read once, at the end.

    The training state is kept in `out/.training/` until the model is there, under a name made from all that was asked, so that only
    the same command goes on from it. The model is written there too, and its files moved up one by one, config.json last: `out` may
    be a folder that cannot be replaced as a whole. `InputError` where `out` holds something else, or has no room for the model.
    """
    place = out / TRAINING
    if (out / "config.json").is_file():  # killed when all but this was done
        shutil.rmtree(place, ignore_errors=True)
    vacant(out, TRAINING)
    sweep(place)
    network = read(model, head=task.head, labels=task.labels, pickle=pickle)
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    needed = sum(p.numel() * p.element_size() for p in network.parameters())
    if free < needed:
        raise InputError(
            f"out: {out} has {free / 1e6:.1f} MB left and the model takes {needed / 1e6:.1f}; free some space, or give another folder"
        )
    asked = repr((str(model), task.labels, schedule, split.train.fingerprint(), split.dev.fingerprint()))
    state = place / f"{hashlib.sha256(asked.encode()).hexdigest()[:12]}.pt"
    history = fit(
        network, split.train.encoded, labels_loss(task.targets(split.train)), evaluator(task, split.dev), schedule, state, progress=progress
    )  # fmt: skip
    # In full precision, as it will be used; training judges in the mixed one.
    history.best, quality = (evaluator(task, examples)(network) for examples in (split.dev, split.eval))
    about = {"task": task.name, "quality": quality, "schedule": asdict(schedule), "history": vars(history)}
    write(network, place / "model", tokenizer=model, extra={"training.json": about})
    move_up(place / "model", out, last="config.json")
    shutil.rmtree(place, ignore_errors=True)
    return history, quality
