"""How commands end where they do not end well: one line, an exit status that the contract says, nothing lost, no traceback."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import ended, kill, prepare, refused, run, start

import penjing
from penjing import cli
from penjing.cli.ending import explained, one_line
from penjing.cli.options import COMMANDS, _options_of, command_named, say_json
from penjing.engines.clock import process
from penjing.engines.clock.messages import Setup
from penjing.engines.clock.process import elsewhere
from penjing.engines.form import EAGER
from penjing.errors import BudgetError, InputError
from penjing.files.run import LOCK, TRAINING

# -- errors ----------------------------------------------------------------------------------------------------------


def caused_by_a_full_disk() -> Exception:
    error = RuntimeError("the archive could not be closed")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded", "/home/model.safetensors")
    return error


ERRORS: dict[str, tuple[Exception, str, int]] = {
    "the input": (InputError("--out: no"), "--out: no", 2),
    "the budget": (BudgetError("not met"), "not met", 3),
    "a package": (ModuleNotFoundError("No module named 'torch'", name="torch"), "the package torch is not installed; pip install", 2),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device", "/x"), "the disk is full (/x); nothing half-written was left", 2),
    "a quota behind another error": (caused_by_a_full_disk(), "the disk is full (/home/model.safetensors)", 2),
    "torch's word for a full disk": (RuntimeError("PytorchStreamWriter failed writing file"), "the disk is full; nothing", 2),
    "memory": (MemoryError(), "the memory is full; lower --batch-size", 2),
    "torch's word for memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory is full", 2),
    "a file that went": (FileNotFoundError(errno.ENOENT, "No such file", "/x/steps"), "/x/steps is not there, or not any more", 2),
    "a file that is not ours": (PermissionError(errno.EACCES, "Permission denied", b"/x"), "/x may not be written or read", 2),
    "a read-only file system": (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system", 2),
    "no folder for temporary files": (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
                                      "No usable temporary directory found in ['/tmp']", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_from_outside_is_a_line_that_says_what_to_do(case: str) -> None:
    error, said, status = ERRORS[case]
    line, found = explained(error)
    assert said in line and found == status


def test_an_error_of_our_own_is_one_line_and_its_traceback_goes_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penjing.job.evaluation.open_model", lambda *given, **options: {}["a key\nthat nobody foresaw"])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = refused("eval", tmp_path, "--data", "none.jsonl")
    assert line.startswith("penjing: a fault of Penjing's own (KeyError: ") and "please report it with" in line
    (file,) = tmp_path.iterdir()
    assert line.endswith(str(file)) and "Traceback" in file.read_text() and "--data none.jsonl" in file.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert refused("eval", tmp_path, "--data", "none.jsonl").endswith("; please report it")


def test_without_the_packages_of_compressing_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    for kept in (command_named, _options_of):
        kept.cache_clear()
    monkeypatch.setattr("penjing.cli.options.importlib", SimpleNamespace(import_module=missing))
    assert refused("inspect", "model") == "penjing: the package torch is not installed; pip install 'penjing[compress,demo]'"
    _options_of.cache_clear()


@pytest.mark.parametrize(("error", "asked", "status"), [(None, 1, 0), (BudgetError("missed"), 1, 3), (InputError("damaged"), 0, 2)])
def test_the_demo_asks_the_model_unless_making_it_failed(
    error: Exception | None, asked: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reported(*given: object) -> None:
        (tmp_path / "compressed" / "engine").mkdir(parents=True)
        (tmp_path / "compressed" / "report.html").touch()
        if error:
            raise error

    monkeypatch.setattr("penjing.cli.compress.reported", reported)
    monkeypatch.setattr("penjing.cli.training.trained", lambda *given: None)
    monkeypatch.setattr("penjing.cli.demo.setup.logistic_regression", lambda *files: 0.5)
    loaded: list[Path] = []
    monkeypatch.setattr(
        penjing, "load", lambda folder: loaded.append(folder) or (lambda texts: [{"label": "a", "score": 1.0}] * 4), raising=False
    )
    found, _, err = ended("demo", "--out", tmp_path)
    assert (found, len(loaded)) == (status, asked), err


def test_a_line_is_one_and_no_terminal_takes_it_for_commands() -> None:
    assert one_line("a\nfilm \x1b[31m 电影 \udcff\t!") == "a film \\x1b[31m 电影 \\udcff !"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compres"], "No such command 'compres'"),
        (["inspect"], "folder: it is missing; penjing inspect --help says what is allowed"),
        (["train", "--task", "pair"], "--model: it is missing; penjing train --help says what is allowed"),
        (["quantize", "--model", "m", "--out", "o", "--task", "pair", "--train", "t"], "--scheme: it is missing"),
        (["bench", "x", "--dat", "y"], "No such option: --dat"),
        (["inspect", "a", "b"], "unexpected extra argument"),
        (["prune", "--macs", "half"], "--macs: "),
        (["train", "--seed"], "--seed"),
        (["prune", "--out", " "], "--out: it is empty; give a folder, or . for the current one"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], said: str) -> None:
    status, out, err = ended(*arguments)
    assert status == 2 and not out and said in err and err.startswith("penjing: ") and err.count("\n") == 1


def test_without_arguments_the_help_is_shown() -> None:
    status, out, _ = ended()
    assert status == 0 and "compress" in out and out == ended("--help")[1]


# -- numbers ---------------------------------------------------------------------------------------------------------

GIVEN = {
    "model": "m", "task": "pair", "train": "t", "out": "o", "scheme": "static-int8", "folder": "f", "folders": "f", "data": "d",
}  # fmt: skip
MORE = {"distill": ["--layers", "1"], "prune": ["--macs", "0.5"]}
"""Without which a command has nothing to do."""


def numeric_options() -> Iterator[tuple[str, list[str], str]]:
    """Every option of every command that takes a number, with the arguments that the command needs beside it."""
    for command in COMMANDS:
        needed, options = list[str](), list[str]()
        for parameter in command_named(command).params:
            if parameter.metavar in ("<int>", "<float>"):
                options.append(parameter.opts[0])
            elif parameter.name in GIVEN:
                needed += [GIVEN[parameter.name]] if parameter.name.startswith("folder") else [parameter.opts[0], GIVEN[parameter.name]]
        for option in options:
            yield command, needed + MORE.get(command, []), option


def test_no_option_takes_what_is_no_number_or_a_negative_or_endless_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(numeric_options())
    assert {"--seed", "--speedup", "--minutes", "--noise", "--bits", "--rounds", "--stored-mb", "--max-length"} <= {
        option for _, _, option in found
    }
    assert {command for command, _, _ in found} == set(COMMANDS) - {"inspect", "methods"}
    for command, needed, option in found:
        for value in ("-1", "-1e9", "nan", "inf", "-inf", "1e999", "many", ""):
            line = refused(command, *needed, option, value)
            assert line.startswith(f"penjing: {option}: ") and "fault" not in line, (command, option, value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "option", "value", "said"),
    [
        ("train", "--seed", 2**32, "a whole number from 0 to 4294967295"),
        ("train", "--epochs", 0, "a whole number from 1 to 10000"),
        ("train", "--learning-rate", 5, "a number above 0, and at most 1"),
        ("compress", "--threads", 10**6, f"a whole number from 0 to {os.cpu_count()}"),
        ("compress", "--max-drop", 101, "give points of the metric, from 0 to 100"),
        ("compress", "--minutes", 0, "a number above 0"),
        ("quantize", "--bits", 9, "a whole number from 1 to 8"),
    ],
)
def test_what_is_allowed_is_said(
    command: str, option: str, value: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = next(needed for name, needed, _ in numeric_options() if name == command)
    assert f"{option}: {value}" in (line := refused(command, *needed, option, value)) and said in line


# -- what is printed -------------------------------------------------------------------------------------------------


def test_json_is_ascii_where_the_output_cannot_be_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("ascii", b'{"a": "\\u7535\\ud83d\\ude00"}'), ("utf-8", '{"a": "电😀"}'.encode())):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        say_json({"a": "电😀"})
        sys.stdout.flush()
        assert raw.getvalue().strip() == expected


def program(*arguments: str, **given: Any) -> "subprocess.CompletedProcess[str]":
    """`python -m penjing.cli`."""
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "check": False} | given
    return subprocess.run([sys.executable, "-m", "penjing.cli", *arguments], **given)


def test_what_an_output_has_no_characters_for_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(cli, "app", lambda *given, **options: print("盆景, \udcff"))
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert raw.getvalue() == b"\\u76c6\\u666f, \\udcff\n"


@pytest.mark.skipif(os.name != "posix", reason="pipes of another system")
def test_an_output_that_nobody_reads_is_a_quiet_end() -> None:
    read, write = os.pipe()
    os.close(read)
    done = program("--help", stdout=write)
    os.close(write)
    assert done.returncode == 141 and not done.stderr
    read, write = os.pipe()
    os.close(read)
    assert program("prune", "--out", " ", stderr=write).returncode == 2
    os.close(write)


# -- what is imported ------------------------------------------------------------------------------------------------


def test_nothing_is_imported_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("random", "typer", "rich", "numpy", "torch", "onnxruntime", "numbers", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    assert program("--help", cwd=tmp_path).returncode == 0


def test_processes_that_are_started_are_not_given_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    given = os.pathsep.join(["", "/elsewhere", ".", str(tmp_path), "more", str(tmp_path / "link"), ""])
    assert elsewhere({"PYTHONPATH": given, "A": "b"}) == {"PYTHONPATH": os.pathsep.join(["/elsewhere", "more"]), "A": "b"}
    assert elsewhere({}) == {"PYTHONPATH": ""}
    monkeypatch.chdir(Path(penjing.__file__).parents[1])
    assert elsewhere({"PYTHONPATH": ""})["PYTHONPATH"] == str(Path.cwd())


@pytest.fixture
def heard(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal that ends the tests where no command hears it: nohup has SIGHUP ignored."""
    number = signal.Signals[request.param]
    found = signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, found)


# -- signals ---------------------------------------------------------------------------------------------------------


def test_a_command_that_is_stopped_says_what_is_kept_and_goes_on(tmp_path: Path) -> None:
    given, out = [*prepare(tmp_path, "classification"), "--threads", "1", "--no-training", "--size-mb", "5"], tmp_path / "out"
    said = kill("02-observe", out, "compress", *given, by=signal.SIGINT).strip().splitlines()
    assert said[-1] == f"penjing: stopped (SIGINT); what is done is kept in {out}: the same command goes on from there"
    assert not [*out.rglob("*.tmp"), *out.rglob(LOCK)] and (out / "steps" / "01-baseline").is_dir()
    _, _, err = ended("compress", *given, "--out", out)
    assert "baseline: kept from before" in err and (out / "report.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="signals of another system")
@pytest.mark.parametrize(("heard", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)], indirect=["heard"])
def test_a_training_that_is_stopped_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: int, status: int) -> None:
    name = signal.Signals(heard).name
    out, given, after = tmp_path / "out", prepare(tmp_path, "classification"), list[str]()

    def finetune(*given: Any, **options: Any) -> None:
        if after:
            (out / TRAINING).mkdir()
        signal.raise_signal(heard)
        pytest.fail("it went on")

    monkeypatch.setattr("penjing.job.api.finetune", finetune)
    before = signal.getsignal(signal.SIGTERM)
    assert refused("train", *given, "--out", out, status=status) == f"penjing: stopped ({name}); nothing was done yet that {out} could keep"
    assert not out.exists() and signal.getsignal(signal.SIGTERM) is before
    after.append("a state was saved")
    said = f"penjing: stopped ({name}); what is done is kept in {out}: the same command goes on from there"
    assert refused("train", *given, "--out", out, status=status) == said and not (out / LOCK).exists()


def test_a_signal_that_is_passed_on_twice_does_not_break_into_the_sweeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[str] = []

    def opened(*given: Any, **options: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            swept.append("whole")

    monkeypatch.setattr("penjing.job.evaluation.open_model", opened)
    assert refused("eval", tmp_path, "--data", "none", status=130) == "penjing: stopped (SIGINT)" and swept


def test_a_stop_that_became_another_error_on_its_way_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*given: Any, **options: Any) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("the extension could not be initialised") from error

    monkeypatch.setattr("penjing.job.evaluation.open_model", opened)
    assert refused("eval", tmp_path, "--data", "none", status=143) == "penjing: stopped (SIGTERM)"


def test_a_timing_process_does_not_outlive_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    class Sleeper(subprocess.Popen[str]):
        def __init__(self, command: list[str], **given: Any) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **given)
            started.append(self)

    def ask(self: Any, message: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(process.subprocess, "Popen", Sleeper)
    monkeypatch.setattr(process.Process, "ask", ask)
    texts = tmp_path / "texts.npz"
    with pytest.raises(KeyboardInterrupt):
        process.Process(Setup(EAGER, tmp_path, 1, texts, texts, 32, None))
    assert started[0].poll() == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="signals of another system")
def test_a_training_stops_though_other_code_swallowed_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finetune(*given: Any, progress: Any, **options: Any) -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        progress(1, 10, loss=1.0, best=0.5)
        pytest.fail("it went on")

    monkeypatch.setattr("penjing.job.api.finetune", finetune)
    said = refused("train", *prepare(tmp_path, "classification"), "--out", tmp_path / "out", status=143)
    assert said.startswith("penjing: stopped (SIGTERM); ")


# -- the folder of a training ----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Folders that cannot be replaced as a whole, and one that is not there."""
    for name in ("here", "real", "mount"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mounted = (
        shutil.which("mount")
        and not subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path / "mount")], capture_output=True, check=False).returncode
    )
    if mounted:
        (tmp_path / "mount" / "lost+found").mkdir()
    yield tmp_path
    if mounted:
        subprocess.run(["umount", str(tmp_path / "mount")], check=True)


def test_a_model_is_written_into_folders_that_cannot_be_replaced(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*prepare(place, "classification"), "--epochs", "1"]
    monkeypatch.chdir(place / "here")
    files = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    for out in (place / "new" / "deep", Path(), place / "link", place / "mount"):
        run("train", *given, "--out", out)
        assert {path.name for path in out.iterdir()} - {"lost+found"} == files, out
        assert "is not empty and holds no run that could go on" in refused("train", *given, "--out", out)
    assert Path.cwd() == place / "here" and (place / "link").is_symlink() and (place / "real" / "config.json").is_file()


def test_a_training_that_was_killed_while_its_files_were_moved_goes_on(tmp_path: Path) -> None:
    given, out = [*prepare(tmp_path, "classification"), "--epochs", "1", "--out", str(tmp_path / "out")], tmp_path / "out"
    (out / TRAINING / ".model.12345678.tmp").mkdir(parents=True)
    (out / "model.safetensors").write_bytes(b"of a model whose config.json is not there yet")
    run("train", *given)
    assert "quality" in run("eval", out, "--data", tmp_path / "dev.jsonl", "--json") and not (out / TRAINING).exists()
    (out / TRAINING).mkdir()  # killed when all was moved
    assert "is not empty and holds no run" in refused("train", *given) and not (out / TRAINING).exists()


def test_a_disk_without_room_for_the_model_is_found_out_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = prepare(tmp_path, "classification")
    monkeypatch.setattr("penjing.training.finetune.fit", lambda *given, **options: pytest.fail("it was trained"))
    small = SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=20_000), rmtree=shutil.rmtree)
    monkeypatch.setattr("penjing.training.finetune.shutil", small)
    assert "has 0.0 MB left and the model takes 0.1; free some space" in refused("train", *given, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_trainings_into_one_folder_are_one_and_a_line(tmp_path: Path) -> None:
    given = [*prepare(tmp_path, "classification"), "--out", str(tmp_path / "out")]
    first = start("train", *given, "--epochs", "10000")
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / LOCK).is_file() or not (tmp_path / "out" / LOCK).read_text():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert f"already (process {first.pid} of " in refused("train", *given, "--epochs", "1")
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate()
    assert first.returncode == 143, err
    assert err.strip().splitlines()[-1].startswith("penjing: stopped (SIGTERM); ") and "Traceback" not in err
    assert not (tmp_path / "out" / LOCK).exists()
