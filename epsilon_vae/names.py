"""Names of files as writers of text take them: a file's name is any bytes but `/` and NUL.

Python holds the bytes that are no UTF-8 as surrogates, which no encoder of text takes.
"""

import re

# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@")
# What begins something in Markdown, or ends a table's cell.
_MARKDOWN = re.compile(r"([\\`*|<>\[\]&])")


def printable(name: str) -> str:
    r"""The name on one line: what cannot be printed is escaped as Python does, `\n`, `\xff`."""
    return "".join(char if char.isprintable() else _escape(char) for char in name)


def markdown(name: str) -> str:
    """The printable name as Markdown, in a table too, which shows it as it is."""
    return _MARKDOWN.sub(r"\\\1", printable(name))


def csv_cell(name: str) -> str:
    """The printable name, with an apostrophe before what a spreadsheet would run as a formula."""
    name = printable(name)
    return f"'{name}" if name.startswith(_FORMULA) else name


def encode(text: str) -> bytes:
    r"""UTF-8 of a file's text, with surrogates as JSON escapes them, `\udcff`."""
    return text.encode("utf-8", "backslashreplace")


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
