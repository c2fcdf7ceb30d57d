"""The command line: thin; names resolve here and nowhere else."""

import errno
import sys
from typing import NoReturn

from penjing.cli import compress, distill, one_step, view
from penjing.cli.options import app
from penjing.errors import InputError, PenjingError

__all__ = ["app", "compress", "distill", "main", "one_step", "view"]


@app.callback()
def root() -> None:
    """Penjing (盆景): makes a fine-tuned BERT small and fast on the machine where it will run, with the proof."""


def main() -> None:
    """Run; an error of ours is one line and its exit status."""
    try:
        app(standalone_mode=True)
    except PenjingError as error:
        fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        fail(f"the package {error.name} is not installed; pip install 'penjing[compress,demo]'", InputError.exit_status)
    except Exception as error:
        if disk_is_full(error):
            fail("the disk is full; nothing half-written was left: free some space and run the same command", InputError.exit_status)
        if isinstance(error, PermissionError):
            fail(f"{error.filename} may not be written or read ({error.strerror}); choose another place", InputError.exit_status)
        raise


def fail(message: str, status: int) -> NoReturn:
    """One line on standard error, and out."""
    print("penjing: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether the disk being full is behind an error: torch and safetensors say it in words of their own."""
    while error is not None:
        if (
            getattr(error, "errno", None) == errno.ENOSPC
            or "No space left on device" in str(error)
            or "PytorchStreamWriter failed" in str(error)
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
