"""The errors that reach a user: one root class, one exit status each."""


class PenjingError(Exception):
    """Root of every error that Penjing raises on purpose; the message is one line for a person."""

    exit_status = 2


class InputError(PenjingError):
    """The input or the options are wrong: says what, what was got, what is allowed, and the fix."""


class BudgetError(PenjingError):
    """The budget could not be met; what was found is kept on disk."""

    exit_status = 3
