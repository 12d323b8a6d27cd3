"""Markdown: tables and lists in which no text of others becomes markup."""

import re
from collections.abc import Iterable, Sequence

from reports.wording import printable

_MARKUP = re.compile(r"[\\`*{}\[\]<>#|~!&@]|(?<!\w)_|_(?!\w)|:(?=//)|(?i:w)(?=ww\.)")
"""Also what would link, mention or embed: addresses, @names, HTML. An underscore within a word is only that."""


def text(words: str) -> str:
    """Return text that shows as it is, on one line."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", printable(words))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(text(cell) if number != 1 else cell for cell in line)} |" for number, line in enumerate(lines)
    )


def bullets(lines: Iterable[str]) -> str:
    """Return a list of lines of text; an empty string of none."""
    return "\n".join(f"- {text(line)}" for line in lines)
