"""Fine-tune a pretrained encoder on a task: how a teacher is made."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path

from penjing.checkpoint import read, write
from penjing.errors import InputError
from penjing.tasks.task import Examples, Task
from penjing.training.loop import History, Progress, Schedule, fit, silent
from penjing.training.predict import labels_loss, quality_of


def finetune(
    model: str | Path,
    task: Task,
    train: Examples,
    dev: Examples,
    eval: Examples,
    out: Path,
    schedule: Schedule,
    *,
    pickle: bool = False,
    progress: Progress = silent,
) -> tuple[History, float]:
    """Train on labels, keep the weights that were best on `dev`, and write them to `out/` as a Hugging Face folder.

    Returns the history, whose `best` is of `dev`, and the quality on `eval`, which is read once, at the end.

    The training state is kept beside `out` until the model is written, under a name made from all that was asked, so
    that only the same command goes on from it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out: {out} exists already; give another folder, or remove it")
    for leftover in out.parent.glob(f".{out.name}.*.tmp"):  # of a run that was killed while it wrote
        shutil.rmtree(leftover, ignore_errors=True)
    network = read(model, head=task.head, labels=task.labels, pickle=pickle)
    asked = repr((str(model), task.labels, schedule, train.fingerprint(), dev.fingerprint()))
    state = out.parent / f".{out.name}.training" / f"{hashlib.sha256(asked.encode()).hexdigest()[:12]}.pt"
    history = fit(
        network, train.encoded, labels_loss(task.targets(train)), quality_of(task, dev), schedule, state,
        pad=network.config.pad_token_id or 0, progress=progress,
    )  # fmt: skip
    # In full precision, as it will be used; training judges in the mixed one.
    history.best, quality = (quality_of(task, examples)(network) for examples in (dev, eval))
    about = {"task": task.name, "quality": quality, "schedule": asdict(schedule), "history": vars(history)}
    write(network, out, tokenizer=model, extra={"training.json": about})
    shutil.rmtree(state.parent, ignore_errors=True)
    return history, quality
