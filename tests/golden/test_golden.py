"""Every golden run gives what it gave when hashes.json was written; see golden.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import RUNS, Worker, differences, kept


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """A process for the runs, and the key of this machine; each worker of xdist has its own."""
    folder: Path = tmp_path_factory.mktemp("golden")
    made = Worker(folder)
    try:
        yield made, made.ask("")
    finally:
        made.close()


@pytest.mark.parametrize("name", RUNS)
def test_it_is_as_it_was(name: str, worker: tuple[Worker, dict[str, Any]]) -> None:
    process, key = worker
    before = kept()
    assert not differences(before["runs"][name], process.ask(name), before["key"] == key, RUNS[name].near)


def test_there_is_a_hash_of_every_run() -> None:
    assert [*kept()["runs"]] == [*RUNS]
