"""Atomic writes: files and folders that appear on disk in one step."""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]
"""A JSON object, where it crosses the border to a file, a process or a page; inside, records have types."""
NO_ROOM = 64 * 1024
"""Bytes; with less left a disk counts as full."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Context manager of a temporary folder beside `path`; on success it replaces `path`, on failure it is removed.

    Any failure while the disk is full is raised as a full disk (`OSError`, ENOSPC): libraries that write files by
    themselves report it in many ways, or fail later on the half-written file.
    """
    if path.is_symlink():
        path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            old = temporary.with_suffix(".old")
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.rename(path)
    except Exception as error:
        if full(temporary.parent):
            raise OSError(errno.ENOSPC, "no space left on device", str(path)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def full(folder: Path) -> bool:
    """Whether the disk of a folder has no room left."""
    try:
        return shutil.disk_usage(folder).free < NO_ROOM
    except OSError:  # the folder itself is gone
        return False


def move_up(source: Path, target: Path, last: str) -> None:
    """Move the files of `source` into the folder `target`, by the file `last` last: who finds it there finds all; `source` is removed.

    This is for a folder that cannot be replaced as a whole: a mount point, the current folder, one whose parent may not be written.
    """
    for file in sorted(source.iterdir(), key=lambda file: file.name == last):
        file.replace(target / file.name)
    source.rmdir()


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write text as UTF-8 to `path` atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON to `path` atomically."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove half-written files that a killed process left in `folder`."""
    for old in folder.glob(".*.old"):  # killed between the two renames: the old folder is still the whole one
        original = folder / old.name[1:].rsplit(".", 2)[0]
        if not original.exists():
            old.rename(original)
    for leftover in [*folder.glob(".*.tmp"), *folder.glob(".*.old")]:
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
