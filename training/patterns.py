"""Choose names by patterns."""

import fnmatch
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Patterns: TypeAlias = str | Sequence[str]


def matching(kind: str, patterns: Patterns | None, names: Iterable[str]) -> list[str]:
    """Return the names that patterns match, in their order.

    Parameters
    ----------
    kind
        What is named, for the message: the argument that the patterns were given as.
    patterns
        ``fnmatch`` patterns.
    names
        The names there are.

    Raises
    ------
    ValueError
        If a pattern matches none.
    """
    known = list(names)
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        hits = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            raise ValueError(f"{kind}={pattern!r} matches nothing; there are {known}")
        chosen.update(hits)
    return [name for name in known if name in chosen]
