"""Errors that commands end with in one line."""


class UserError(ValueError):
    """Input, a setting or a file that cannot be used; the message says which and why.

    It states the fact: no flag, which a Python caller has not. Commands add those
    (`command_line.exit_codes`).
    """


def shown(error: Exception) -> str:
    """The message, in which may be anything that a file holds, printable and of bounded length."""
    return "".join(x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in str(error)[:500])


class NonFiniteError(FloatingPointError):
    """Numbers that are NaN or infinite; the message says which, and where they come from."""
