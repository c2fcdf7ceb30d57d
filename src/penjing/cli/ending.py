"""How a command ends where it does not end well: in one line, with the exit status that the contract says, never in a traceback."""

import errno
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import typer

from penjing import __version__
from penjing.errors import InputError, PenjingError

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""What asks a program to end: Ctrl-C, kill or a scheduler, a terminal that is closed."""
REPEATED_S = 1.0
"""Seconds in which a further signal is the same one again, as whoever started the program passes it on too."""
SIGNALLED = 128
"""What a shell adds to a signal's number to make an exit status."""
CLOSED = SIGNALLED + 13
"""The exit status where nobody reads the output any more: what SIGPIPE would make."""
NO_MEMORY = ("can't allocate memory", "CUDA out of memory")
"""How PyTorch says that there is none left."""
UsageError: Any = typer.BadParameter.__base__
"""The root of Typer's errors about options and commands, which it does not name itself."""


class Stopped(BaseException):
    """Raised when a signal asks the program to end; no `Exception`, so that no handler takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped ({signal.Signals(number).name})")
        self.number = number


_stopped = list[Stopped]()
"""What a signal has raised within `stoppable`."""


def stop_where_asked() -> None:
    """Raise `Stopped` again where other code swallowed it, as a bare `except` or a callback of another language does."""
    if _stopped:
        raise _stopped[-1]


@contextmanager
def stoppable() -> Iterator[None]:
    """Context manager in which a signal raises `Stopped`: half-written files are removed, and started processes ended.

    Code in other languages may make an error of its own out of it on the way, which is taken back here.
    """
    last = -REPEATED_S
    before = dict[int, Any]()
    unraisable = sys.unraisablehook
    sys.unraisablehook = lambda seen: None if isinstance(seen.exc_value, Stopped) else unraisable(seen)  # in a destructor

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        since, last = time.monotonic() - last, time.monotonic()
        if since >= REPEATED_S:
            _stopped.append(Stopped(number))
            raise _stopped[-1]

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells' background jobs set it
                before[number] = signal.signal(number, stop)
    try:
        yield
    except Exception as error:
        if not _stopped:
            raise
        for note in getattr(error, "__notes__", []):
            _stopped[-1].add_note(note)
        raise _stopped[-1] from error
    finally:
        _stopped.clear()
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def fail(message: str, status: int) -> NoReturn:
    """Print one line on standard error, and end with an exit status."""
    try:
        if sys.stderr:
            print(f"penjing: {one_line(message)}", file=sys.stderr)
    except OSError:
        _mute()
    sys.exit(status)


def one_line(text: str) -> str:
    """Text as one line: without line breaks and control characters of a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


def unread() -> NoReturn:
    """End quietly with an exit status: the reader of the output is gone."""
    _mute()
    sys.exit(CLOSED)


def _mute() -> None:
    """Redirect the rest of the output to nowhere, rather than end in an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def explained(error: Exception) -> tuple[str, int]:
    """The message and exit status of an error that ends the program."""
    if isinstance(error, PenjingError):
        return str(error), error.exit_status
    return _explained(error), InputError.exit_status


def _explained(error: Exception) -> str:
    if isinstance(error, UsageError):
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed; pip install 'penjing[compress,demo]'"
    if (disk := full_disk(error)) is not None:
        return f"the disk is full{disk and f' ({disk})'}; nothing half-written was left: free some space and run the same command"
    if isinstance(error, MemoryError) or any(message in str(error) for message in NO_MEMORY):
        return "the memory is full; lower --batch-size or --max-length, or take a machine with more, and run the same command"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{_named(error.filename)} is not there, or not any more; put it back, or give another"
    if isinstance(error, PermissionError) and error.filename:
        return f"{_named(error.filename)} may not be written or read ({error.strerror}); choose another place"
    if isinstance(error, OSError):
        return f"{_named(error.filename)}: {error.strerror}" if error.filename else str(error)
    return _reported(error)


def _named(file: Any) -> str:
    """The name of a file, which the system may have given as a number or as bytes."""
    return os.fsdecode(file) if isinstance(file, bytes) else str(file)


def _usage(error: Any) -> str:
    """The message on wrong options: the option's name, Typer's message, and a pointer to the help."""
    parameter = getattr(error, "param", None)
    message = error.format_message()
    if parameter is not None:
        message = f"{parameter.opts[0]}: {error.message.lower() or 'it is missing'}"
    command = error.ctx.command_path if error.ctx else "penjing"
    return f"{message.strip().rstrip('.')}; {command} --help says what is allowed"


def full_disk(error: BaseException | None) -> str | None:
    """The file that a full disk (or a quota) kept from being written, "" where nobody says which; None where it is another error.

    torch and safetensors say it in words of their own.
    """
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return _named(getattr(error, "filename", None) or "")
        if "No space left on device" in str(error) or "PytorchStreamWriter failed" in str(error):
            return ""
        error = error.__cause__ or error.__context__
    return None


def _reported(error: Exception) -> str:
    """Report an unforeseen error: a traceback goes into a file, which the message names."""
    fault = f"{type(error).__name__}: {str(error)[:200]}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="penjing-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"penjing {__version__}, Python {sys.version}, {sys.platform}\n{shlex.join(sys.argv)}\n\n")
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"a fault of Penjing's own ({fault}); please report it"
    return f"a fault of Penjing's own ({fault}); please report it with {file.name}"
