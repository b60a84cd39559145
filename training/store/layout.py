"""Names in a run directory, shared by the writer and the reader."""

import re
from pathlib import Path

SCHEMA = 1
RUN_FILE = "run.json"
END_FILE = "end.json"
_SEGMENT = re.compile(r"metrics\.(\d{4,})\.jsonl")


def segment_path(directory: Path, number: int) -> Path:
    """Return the file of a segment.

    Parameters
    ----------
    directory
        The run directory.
    number
        The segment's number, from 0.
    """
    return directory / f"metrics.{number:04d}.jsonl"


def segments(directory: Path) -> dict[int, Path]:
    """Return the segments of a run by number, in the order in which they were written.

    Parameters
    ----------
    directory
        The run directory.
    """
    matches = ((_SEGMENT.fullmatch(path.name), path) for path in directory.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))
