"""Fine-tune a pretrained encoder on a task: how a teacher is made."""

from dataclasses import asdict
from pathlib import Path

from penjing.checkpoint import read, write
from penjing.tasks.task import Examples, Task
from penjing.training.loop import History, Progress, Schedule, fit, silent
from penjing.training.predict import labels_loss, quality_of


def finetune(
    model: str | Path,
    task: Task,
    train: Examples,
    dev: Examples,
    out: Path,
    schedule: Schedule,
    *,
    pickle: bool = False,
    progress: Progress = silent,
) -> History:
    """Train on labels, keep the weights that were best on `dev`, and write them to `out/` as a Hugging Face folder.

    The training state is kept in `out/../.<name>.training/` until the model is written.
    """
    network = read(model, head=task.head, labels=task.labels, pickle=pickle)
    state = out.parent / f".{out.name}.training" / "state.pt"
    history = fit(
        network, train.encoded, labels_loss(task.targets(train)), quality_of(task, dev), schedule, state,
        pad=network.config.pad_token_id or 0, progress=progress,
    )  # fmt: skip
    write(
        network, out, tokenizer=model, extra={"training.json": {"task": task.name, "schedule": asdict(schedule), "history": vars(history)}}
    )
    state.unlink(missing_ok=True)
    if state.parent.exists():
        state.parent.rmdir()
    return history
