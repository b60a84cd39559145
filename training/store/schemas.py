"""The schema of what is written, and how what older versions wrote is lifted to it.

Schema 2 records in ``run.json`` a ``cadence`` (``{"every": 10}``, ``{"at": [0, 1, 2]}`` or
``{"log_spaced": {"max_steps": 1000, "rows": 50}}``) where schema 1 had ``every``, and in the header
of a segment when it was ``started``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 2


def lift_run(recorded: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a ``run.json`` as the present schema has it.

    Parameters
    ----------
    recorded
        The content, of this or an older schema.
    path
        The file, for the message.

    Raises
    ------
    ValueError
        If a newer version wrote it.
    """
    lifted = dict(recorded)
    if _schema(recorded, path) == 1:
        every = lifted.pop("every", None)
        lifted["cadence"] = None if every is None else {"every": every}
    return lifted | {"schema": SCHEMA}


def lift_header(header: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the header of a segment as the present schema has it; rows are the same in all.

    Parameters
    ----------
    header
        The header, of this or an older schema.
    path
        The segment, for the message.

    Raises
    ------
    ValueError
        If a newer version wrote it.
    """
    _schema(header, path)
    return {"started": None} | dict(header) | {"schema": SCHEMA}


def _schema(record: Mapping[str, Any], path: Path) -> int:
    schema = record.get("schema", 1)
    if schema > SCHEMA:
        raise ValueError(
            f"{path} has schema {schema}, and schemas up to {SCHEMA} are read: upgrade bayeshmm"
        )
    return schema
