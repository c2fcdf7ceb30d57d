"""The output folder of a job: locked by one run at a time, with every step written atomically.

A job that was killed resumes after the last finished step.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from penjing.errors import InputError, reason_of
from penjing.files.whole import Json, full, sweep, whole_folder, write_json

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Tell = Callable[[str], None]
"""A function that shows a line to the user who waits."""
RECORD = "record.json"
ASKED = "run.json"
"""The request of a run; by it a resumed run recognises its folder."""
TRAINING = ".training"
"""The state folder of a training; by it a resumed training recognises its folder."""
LOCK = ".penjing.lock"
"""The lock file of the run that writes in a folder, removed at its end. A run that was killed leaves the file unlocked."""
NOTHING = (LOCK, ".*.tmp", "lost+found", ".DS_Store")
"""Entries of a folder that counts as empty: lock and temporary files, and what systems put into new folders."""
HELD = (errno.EWOULDBLOCK, errno.EACCES)
"""Error numbers for a lock that another process has; any other means that the file system has no locks."""


@contextmanager
def claimed(folder: Path, own: str, tell: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Context manager that locks `folder` for one run; it is made where needed, and removed at the end where it is still empty.

    Obstacles to writing the result are detected here, before anything has cost time. To any other error a note is added (`add_note`)
    that tells what is kept.

    Raises:
        InputError: the folder cannot be made or written in, its disk is full, another run has the lock, or it contains something but
            not `own`, the entry by which a resumed run recognises its folder.
    """
    made = _make(folder, "out")
    try:
        lock = _lock(folder, tell)
        try:
            vacant(folder, own)
            if full(folder):
                raise InputError(f"out: the disk of {folder} is full; free some space, or give a folder on another")
            yield
        finally:
            with suppress(OSError):  # while it is held: whoever waits for it sees that it is gone
                (folder / LOCK).unlink()
            os.close(lock)
    except BaseException as error:
        kept = f"what is done is kept in {folder}: the same command goes on from there"
        error.add_note(kept if (folder / own).exists() else f"nothing was done yet that {folder} could keep")
        raise
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def vacant(folder: Path, own: str) -> None:
    """Check that a path is no file, and no folder that contains something but not `own`; else `InputError`."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out: {folder} is a file; give a folder")
    if not folder.is_dir() or (folder / own).exists():
        return
    if any(not any(entry.match(name) for name in NOTHING) for entry in folder.iterdir()):
        raise InputError(f"out: {folder} is not empty and holds no run that could go on; give another folder, or remove it")


def writable(folder: Path, option: str) -> None:
    """Make `folder` where needed, and check that files can be written in it; else `InputError`."""
    _make(folder, option)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{option}: {folder} cannot be written in ({error.strerror}); give another folder") from error


def _make(folder: Path, option: str) -> list[Path]:
    """Make a folder, or the target of a dangling link; returns the folders that were made, the innermost first."""
    try:
        target = folder.resolve()
        missing = [path for path in (target, *target.parents) if not path.exists()]
        target.mkdir(parents=True, exist_ok=True)
        return missing
    except (FileExistsError, NotADirectoryError) as error:
        file = next((path for path in (target, *target.parents) if path.is_file()), target)
        raise InputError(f"{option}: {file} is a file; give a folder") from error
    except (OSError, RuntimeError) as error:  # the latter: links that lead to one another
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{option}: {folder} cannot be made ({reason}); give another folder") from error


def _lock(folder: Path, tell: Callable[[str], None]) -> int:
    """Lock a folder; returns the file descriptor that keeps the lock until it is closed or the process ends."""
    path = folder / LOCK
    held = False
    while not held:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"out: {folder} cannot be written in ({error.strerror}); give another folder") from error
        try:
            _hold(file)
        except OSError as error:
            if error.errno in HELD:
                holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
                os.close(file)
                message = f"a run is writing in {folder} already ({holder}); wait for it or stop it, or give another folder"
                raise InputError(f"out: {message}") from error
            tell(f"{folder}: its file system has no locks ({error.strerror}), so see to it that no other run writes there")
        try:
            held = os.path.samestat(os.fstat(file), path.stat())
        except OSError:  # the run that held it has just ended, and the file with it
            held = False
        if not held:
            os.close(file)
    with suppress(OSError):  # a full disk is detected by the caller
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} of {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
    return file


def _hold(file: int) -> None:
    """Take the lock of an open file; `OSError` at once where another process has it."""
    if sys.platform == "win32":
        os.lseek(file, 1 << 20, os.SEEK_SET)  # far behind what is written, which stays readable
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fingerprint(*paths: Path) -> str:
    """A hash of the contents of files, and of the weights and configuration in folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".safetensors")) if path.is_dir() else [path]
        for file in files:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class StepRecord:
    """The record of a step in the report: its seconds, the quality and bytes of a model that it made, and a note."""

    name: str
    seconds: float
    quality: float | None
    bytes: int | None
    note: str | None


class Run:
    """A run in its folder: `run.json` contains the request, `steps/NN-name/` a step's record and its files."""

    def __init__(self, folder: Path, asked: Json, tell: Tell = lambda text: None) -> None:
        self.folder = folder
        self.tell = tell
        self.count = 0
        self.records = list[StepRecord]()
        vacant(folder, ASKED)
        for place in (folder, folder / "steps", folder / "partial"):
            sweep(place)
        about = folder / ASKED
        if about.is_file():
            before = _read(about)
            if before != json.loads(json.dumps(asked)):
                changed = ", ".join(sorted(k for k in {*before, *asked} if before.get(k) != asked.get(k)))
                raise InputError(f"out: {folder} holds a run that was asked otherwise ({changed}); give another folder, or remove it")
        write_json(about, asked)

    def step(self, name: str, work: Callable[[Path], Json]) -> tuple[Json, Path]:
        """Run a step, `work(folder)`, or load it from an interrupted run; returns its record and its folder."""
        self.count += 1
        place = self.folder / "steps" / f"{self.count:02d}-{name}"
        if (place / RECORD).is_file():
            record = _read(place / RECORD)
            self.tell(f"{name}: kept from before ({record['seconds']:.0f} s)  {record.get('note', '')}")
        else:
            began = time.monotonic()
            with whole_folder(place) as temporary:
                record = Json({"name": name}) | work(temporary)
                record["seconds"] = round(time.monotonic() - began, 2)
                write_json(temporary / RECORD, record)
            self.tell(f"{name}: {record['seconds']:.0f} s  {record.get('note', '')}")
        self.records.append(StepRecord(name, record["seconds"], record.get("quality"), record.get("bytes"), record.get("note")))
        return {key: value for key, value in json.loads(json.dumps(record)).items() if key not in ("name", "seconds")}, place

    @property
    def partial(self) -> Path:
        """The folder of a step's state while it works."""
        return self.folder / "partial"

    def finish(self) -> None:
        """Remove the state of finished steps."""
        shutil.rmtree(self.partial, ignore_errors=True)


def _read(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or (path.name == RECORD and type(content.get("seconds")) is not float):
            raise ValueError("it is none of those that a step writes")
    except (ValueError, RecursionError) as error:
        raise InputError(f"out: {path} is damaged ({reason_of(error)}); remove its folder") from error
    return content
