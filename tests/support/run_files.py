"""What a run directory holds, read without the store's own reader."""

import json


def written_rows(directory):
    """Return every row of every segment by step, nothing left out; a step may come once."""
    lines = [path.read_text().splitlines() for path in sorted(directory.glob("metrics.*.jsonl"))]
    rows = [json.loads(line) for segment in lines for line in segment[1:]]
    steps = [row.pop("step") for row in rows]
    assert len(set(steps)) == len(steps), steps
    return dict(zip(steps, rows, strict=True))


def end_of(directory):
    """Return what ``end.json`` says."""
    return json.loads((directory / "end.json").read_text())
