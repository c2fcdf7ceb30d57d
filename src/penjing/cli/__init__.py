"""The command line: thin; options are made of the settings' fields, and commands call `job.api`."""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # `python -m penjing.cli`: nothing is imported from the current folder from here on
    del sys.path[0]

import io
from typing import NoReturn

from penjing.cli.ending import SIGNALLED, Stopped, explained, fail, stoppable, unread
from penjing.cli.options import app, dashed

__all__ = ["app", "main"]


@app.callback()
def root() -> None:
    """Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof."""


def main() -> NoReturn:
    """Run the command line; errors end it with one line and the documented exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is written as \uXXXX
            stream.reconfigure(errors="backslashreplace")
    try:
        with stoppable():
            status = app(sys.argv[1:] or ["--help"], prog_name="penjing", standalone_mode=False)
            if sys.stdout:
                sys.stdout.flush()
    except Stopped as stopped:
        fail("; ".join([str(stopped), *getattr(stopped, "__notes__", [])[-1:]]), SIGNALLED + stopped.number)
    except BrokenPipeError:
        unread()
    except SystemExit as ended:  # how Typer and rich leave where a pipe is closed
        if ended.code != 1:
            raise
        unread()
    except Exception as error:
        message, status = explained(error)
        fail(dashed(message), status)
    sys.exit(status or 0)
