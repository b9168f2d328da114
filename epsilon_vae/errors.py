"""Errors that commands end with in one line, and what is said of others."""

from epsilon_vae.names import printable


class UserError(ValueError):
    """Input, a setting or a file that cannot be used; the message says which and why.

    It states the fact: no flag, which a Python caller has not. Commands add those
    (`command_line.exit_codes`).
    """


def reason(error: Exception) -> str:
    """The system's words, or the first line of what a library says: printable, and not too long.

    A library's words may hold anything that a broken file holds.
    """
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return printable(words.splitlines()[0][:500])


class NonFiniteError(FloatingPointError):
    """Numbers that are NaN or infinite; the message says which, and where they come from."""


class FailedError(RuntimeError):
    """A command that failed after it started; the message says at what, and what is saved."""
