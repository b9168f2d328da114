"""Errors that commands end with in one line."""


class UserError(ValueError):
    """Input, a setting or a file that cannot be used; the message says which and why.

    It states the fact: no flag, which a Python caller has not. Commands add those
    (`command_line.exit_codes`).
    """


class FailedError(RuntimeError):
    """A command that failed after it started; the message says at what, and what is saved."""
