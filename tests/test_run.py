"""A run's folder: a step is kept once it is whole, and never half."""

from pathlib import Path

import pytest

from penjing.errors import InputError
from penjing.run import Run


def test_a_step_is_done_once_and_kept(tmp_path: Path) -> None:
    calls = []

    def work(folder: Path) -> dict[str, object]:
        calls.append(folder)
        (folder / "file").write_text("whole")
        return {"value": 1}

    for _ in range(2):
        record, place = Run(tmp_path / "run", {"seed": 0}).step("cut", work)
        assert record["value"] == 1 and (place / "file").read_text() == "whole"
    assert len(calls) == 1


def test_a_step_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, object]:
        (folder / "file").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Run(tmp_path / "run", {}).step("cut", work)
    assert list((tmp_path / "run" / "steps").iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    Run(tmp_path / "run", {}).step("cut", lambda folder: {})
    (tmp_path / "run" / "steps" / ".02-x.abc.tmp").mkdir()
    Run(tmp_path / "run", {})
    assert [path.name for path in (tmp_path / "run" / "steps").iterdir()] == ["01-cut"]


def test_another_question_is_refused_and_named(tmp_path: Path) -> None:
    Run(tmp_path / "run", {"seed": 0, "speedup": 2})
    with pytest.raises(InputError, match="asked otherwise \\(seed\\)"):
        Run(tmp_path / "run", {"seed": 1, "speedup": 2})


@pytest.mark.parametrize("changed", [{"versions": {"penjing": "2"}}, {"processor": ["another", "avx2"]}, {"versions": None}])
def test_steps_of_another_version_or_processor_are_refused_and_named(tmp_path: Path, changed: dict[str, object]) -> None:
    asked = {"seed": 0, "versions": {"penjing": "1"}, "processor": ["this", "avx2"]}
    Run(tmp_path / "run", asked).step("cut", lambda folder: {})
    with pytest.raises(InputError, match=f"asked otherwise \\({next(iter(changed))}\\); give another folder, or remove it"):
        Run(tmp_path / "run", asked | changed)
    assert (tmp_path / "run" / "steps" / "01-cut").is_dir()
