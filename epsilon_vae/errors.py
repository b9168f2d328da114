"""The base class of errors that users can mend."""


class UserError(ValueError):
    """Input, a setting or a file that cannot be used; the message says which and why.

    It states the fact: no flag, which a Python caller has not. Commands add those
    (`command_line.exit_codes`).
    """


def shown(error: Exception) -> str:
    """The message, in which may be anything that a file holds, printable and of bounded length."""
    return "".join(x if x.isprintable() else "\N{REPLACEMENT CHARACTER}" for x in str(error)[:500])
