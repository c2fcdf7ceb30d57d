"""Tasks by name: the table that the command line and files use, and "module:class" of a task of one's own."""

from penjing.errors import InputError
from penjing.files.references import SEPARATOR, reference_of, resolved
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Pair, Tagging)}
ALIASES = {"matching": "pair", "ner": "tagging", "labelling": "tagging", "chunking": "tagging"}


def task_named(name: str) -> type[Task]:
    """The class of the task of that name (or of a usual other name for it), or of "module:class"; an `InputError` where there is none."""
    kind = TASKS.get(ALIASES.get(name, name))
    if kind is None and SEPARATOR in name:
        kind = resolved(name, {}, "task")
        if not (isinstance(kind, type) and issubclass(kind, Task)):
            raise InputError(f"task: {name!r} is no subclass of penjing.tasks.task.Task; give one")
    if kind is None:
        raise InputError(f"task: {name!r} is none; allowed are {', '.join(TASKS)}")
    return kind


def task_reference(task: Task | type[Task]) -> str:
    """The name that `task_named` finds the task's class by: its name in the table, or "module:class"."""
    kind = task if isinstance(task, type) else type(task)
    return kind.name if TASKS.get(kind.name) is kind else reference_of(kind)
