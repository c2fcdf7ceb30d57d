"""The output folder of a job: each step written whole, so that a job that was killed goes on from the last whole step."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from penjing.atomic import sweep, whole_folder, write_json
from penjing.errors import InputError

RECORD = "record.json"


def fingerprint(*paths: Path) -> str:
    """A hash of the contents of files, and of the weights and configuration in folders."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(f for f in path.iterdir() if f.suffix in (".json", ".safetensors")) if path.is_dir() else [path]
        for file in files:
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


class Run:
    """`folder/run.json` says what was asked; `folder/steps/NN-name/` holds a step's record and its files."""

    def __init__(self, folder: Path, asked: dict[str, Any], tell: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.tell, self.count = folder, tell, 0
        self.records: list[dict[str, Any]] = []
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out: {folder} is a file; give a folder")
        for place in (folder, folder / "steps", folder / "partial"):
            sweep(place)
        about = folder / "run.json"
        if about.is_file():
            before = _read(about)
            if before != json.loads(json.dumps(asked)):
                changed = ", ".join(sorted(k for k in {*before, *asked} if before.get(k) != asked.get(k)))
                raise InputError(f"--out: {folder} holds a run that was asked otherwise ({changed}); give another folder, or remove it")
        elif folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"--out: {folder} is not empty and holds no run; give another folder")
        write_json(about, asked)

    def step(self, name: str, work: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], Path]:
        """The record and folder of a step: as it was left by an earlier run, or made now by `work(folder)`."""
        self.count += 1
        place = self.folder / "steps" / f"{self.count:02d}-{name}"
        if (place / RECORD).is_file():
            record = _read(place / RECORD)
            self.tell(f"{name}: kept from before ({record['seconds']:.0f} s)  {record.get('note', '')}")
        else:
            began = time.monotonic()
            with whole_folder(place) as temporary:
                record = {"name": name} | work(temporary)
                record["seconds"] = round(time.monotonic() - began, 2)
                write_json(temporary / RECORD, record)
            self.tell(f"{name}: {record['seconds']:.0f} s  {record.get('note', '')}")
        self.records.append(record)
        return record, place

    @property
    def partial(self) -> Path:
        """Where a step keeps its own state while it works."""
        return self.folder / "partial"

    def finish(self) -> None:
        """Remove the state of steps that are done."""
        shutil.rmtree(self.partial, ignore_errors=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"--out: {path} is damaged ({error}); remove its folder") from error
