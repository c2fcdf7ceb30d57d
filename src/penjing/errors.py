"""The errors that reach a user: one root class, one exit status each; and what is put into their one line."""

import reprlib
from typing import Any


class PenjingError(Exception):
    """Root of every error that Penjing raises on purpose; the message is one line for a person."""

    exit_status = 2


class InputError(PenjingError):
    """The input or the options are wrong: says what, what was got, what is allowed, and the fix."""


class BudgetError(PenjingError):
    """The budget could not be met; what was found is kept on disk."""

    exit_status = 3


def shown(value: Any) -> str:
    """A value in a message: in one short line, however long it is or how often it holds itself."""
    return " ".join(reprlib.repr(value).split())[:80]


def reason_of(error: BaseException) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__
