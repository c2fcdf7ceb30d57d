"""Damaged files of every kind are read whole or refused in one line. `make fuzz` is the long form."""

import subprocess
import sys
from pathlib import Path

import fuzzing
import numpy as np
import pytest
from damage import WAYS, damaged
from fuzzing import READERS, Trial

INPUTS = 30


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if not reader.native])
def test_damaged_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    trial = Trial(name, tmp_path, seed=0)
    trial.read_whole()
    for number in range(INPUTS):
        trial.spoil(number)
        what, why = trial.outcome()
        assert what in ("loaded", "refused"), f"input {number}: {why}"


def test_what_may_end_a_process_ends_none() -> None:
    native = [name for name, reader in READERS.items() if reader.native]
    options = [word for name in native for word in ("--reader", name)]
    command = [sys.executable, fuzzing.__file__, "--seed", "0", "--inputs", str(INPUTS), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{INPUTS * len(native)} tried, 0 went wrong"


def test_every_way_damages_what_it_can() -> None:
    content = b'{"a": [1, {"b": "x"}], "c": 2.5}\n' * 8
    for way in WAYS:
        changed = [way(content, np.random.default_rng(seed)) for seed in range(20)]
        assert sum(each != content for each in changed) > 10
        for empty in (b"", b"\x00"):
            way(empty, np.random.default_rng(0))
    assert damaged(content, np.random.default_rng(3)) == damaged(content, np.random.default_rng(3))
