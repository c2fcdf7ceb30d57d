"""Files and folders that are whole or not there."""

import shutil
from pathlib import Path

import pytest

from penjing.files import whole as atomic
from penjing.files.whole import full, move_up, whole_folder


def test_a_link_to_a_folder_stays_one_and_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "real").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_the_file_that_says_that_all_is_there_is_moved_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "config.json", "z"):
        (source / name).write_text(name)
    moved: list[str] = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    move_up(source, tmp_path, last="config.json")
    assert moved[-1] == "config.json" and sorted(moved) == ["a", "config.json", "z"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "config.json", "z"]


def test_a_folder_that_could_not_be_replaced_is_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise PermissionError
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError), whole_folder(tmp_path / "kept") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and [path.name for path in (tmp_path / "kept").iterdir()] == ["old"]


def test_what_is_left_of_an_old_folder_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    remove = shutil.rmtree

    def failing(path: Path, ignore_errors: bool = False) -> None:
        if path.suffix == ".old" and not ignore_errors:
            raise PermissionError
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", failing)
    with whole_folder(tmp_path / "kept") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["new"]


def test_an_error_on_a_full_disk_is_a_full_disk_and_elsewhere_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, expected in ((0, OSError), (None, RuntimeError)):
        monkeypatch.setattr(atomic, "full", lambda folder, room=room: room is not None)
        with pytest.raises(expected), whole_folder(tmp_path / "folder"):
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_not_a_full_disk(tmp_path: Path) -> None:
    assert not full(tmp_path / "gone") and not full(tmp_path)
