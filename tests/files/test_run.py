"""A run's folder: held by one run at a time, and a step is kept once it is whole, and never half."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penjing.errors import InputError
from penjing.files import run
from penjing.files.run import ASKED, LOCK, Run, claimed, vacant, writable


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


def test_only_what_is_ours_or_holds_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".run.json.12345678.tmp").touch()
    vacant(tmp_path, ASKED)
    vacant(tmp_path / "none", ASKED)
    (tmp_path / ".mine.old").mkdir()
    with pytest.raises(InputError, match="is not empty and holds no run that could go on"):
        Run(tmp_path, {})
    assert (tmp_path / ".mine.old").is_dir()  # a folder that is not ours is not swept either
    (tmp_path / ASKED).touch()
    vacant(tmp_path, ASKED)
    with pytest.raises(InputError, match=r"run\.json is a file; give a folder"):
        vacant(tmp_path / ASKED, ASKED)


# -- one run at a time, and what is found out first ------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from penjing.files.run import claimed
with claimed(Path(sys.argv[1]), "run.json"):
    (Path(sys.argv[1]) / "run.json").touch()
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_told_who_holds_the_folder_until_that_one_is_gone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout and first.stdout.readline() == "held\n"
        said = rf"^out: a run is writing in .*out already \(process {first.pid} of .*, since 20.*\); wait for it or stop it"
        with pytest.raises(InputError, match=said), claimed(out, ASKED):
            pass
        (tmp_path / "link").symlink_to(out)
        with pytest.raises(InputError, match="already"), claimed(tmp_path / "link", ASKED):
            pass
        first.kill()
    assert (out / LOCK).is_file()  # left by the kill, and held by nobody
    with claimed(out, ASKED):
        assert str(os.getpid()) in (out / LOCK).read_text()
    assert [path.name for path in out.iterdir()] == [ASKED]


def test_a_lock_file_that_goes_while_it_is_waited_for_is_not_taken_for_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def hold(file: int) -> None:
        if not taken:  # the run that held it ends between opening and locking
            (tmp_path / LOCK).unlink()
        taken.append(os.fstat(file).st_ino)

    monkeypatch.setattr(run, "_hold", hold)
    with claimed(tmp_path, ASKED):
        assert len(taken) == 2 and (tmp_path / LOCK).stat().st_ino == taken[1]


def test_what_was_made_and_stayed_empty_goes_again_and_what_was_there_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, claimed(tmp_path / "a" / "b", ASKED):
        raise InputError("a wrong option")
    assert not (tmp_path / "a").exists() and caught.value.__notes__ == [f"nothing was done yet that {tmp_path / 'a' / 'b'} could keep"]
    with claimed(tmp_path, ASKED):
        assert (tmp_path / LOCK).is_file()
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


def test_an_error_carries_where_what_is_done_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, claimed(tmp_path / "out", ASKED):
        Run(tmp_path / "out", {})
        raise KeyboardInterrupt
    assert caught.value.__notes__ == [f"what is done is kept in {tmp_path / 'out'}: the same command goes on from there"]


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        tmp_path / "file": "file is a file; give a folder", tmp_path / "file" / "deep" / "er": "file is a file; give a folder",
        tmp_path / "loop": "cannot be made", tmp_path / ("x" * 300): "cannot be made",
    }  # fmt: skip
    if sys.platform == "linux":
        cases[Path("/proc/penjing")] = "cannot be made"
    for out, said in cases.items():
        with pytest.raises(InputError, match=f"^out: .*{said}"), claimed(out, ASKED):
            pytest.fail(f"{out} was taken")
    with pytest.raises(InputError, match=r"^cache: .*file is a file"):
        writable(tmp_path / "file", "cache")
    writable(tmp_path / "cache", "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_link_that_leads_nowhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    with claimed(tmp_path / "link", ASKED):
        (tmp_path / "link" / ASKED).touch()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == [ASKED]


def test_a_full_disk_is_found_out_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "full", lambda folder: True)
    with pytest.raises(InputError, match=r"^out: the disk of .* is full"), claimed(tmp_path / "out", ASKED):
        pytest.fail("it was taken")
    assert not (tmp_path / "out").exists()


def test_where_there_are_no_locks_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    told: list[str] = []
    monkeypatch.setattr(run, "_hold", hold)
    with claimed(tmp_path, ASKED, told.append):
        assert "has no locks (No locks available)" in told[0]
