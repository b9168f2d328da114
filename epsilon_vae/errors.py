"""What errors have in common that users can mend."""


class UserError(ValueError):
    """Input, a setting or a file that cannot be used; the message says which and why.

    It states the fact: no flag, which a Python caller has not. Commands add those
    (`command_line.exit_codes`).
    """
