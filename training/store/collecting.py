"""Collect a folder of runs into one Parquet file, which is quick to read a few metrics from."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from training.store.layout import COLLECTED, named_runs, signature
from training.store.trajectory import all_metrics, parse


def collect(root: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Collect all runs below a folder into its ``trajectories.parquet``, from which `read` reads.

    Collect again at any time: runs whose files are unchanged since then are copied, others parsed,
    and those that are gone dropped. The runs may be training, and others may collect meanwhile:
    the file is replaced as a whole. It repeats what the run directories hold, and may be removed.

    Parameters
    ----------
    root
        A folder of run directories, at any depth.
    progress
        Whether to show a bar.

    Returns
    -------
    pathlib.Path
        The file: columns ``run``, ``step`` and the metrics, in which null is missing and NaN was
        logged as NaN.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    FileExistsError
        If there is a ``trajectories.parquet`` that this function did not make.
    FileNotFoundError, NotADirectoryError
        If the path does not exist, is a file, or no run is there.
    ValueError
        If a run cannot be read, or the collected file is corrupt; the message names the file.
    """
    try:
        from training.store.parquet import Collected, write_runs
    except ImportError as error:
        raise ImportError("collecting needs pyarrow: pip install 'bayeshmm[parquet]'") from error
    root = Path(root)
    target = root / COLLECTED
    paths = named_runs(root)
    collected = Collected(target).runs() if target.exists() else {}
    if collected is None:
        raise FileExistsError(f"{target} is not a file that collect made: move it elsewhere")
    kept = {
        name: collected[name]
        for name, path in paths.items()
        if name in collected and collected[name].signature == signature(path)
    }
    if list(collected) == list(kept) == list(paths):
        return target
    with TemporaryDirectory(prefix=f".{target.stem}.", dir=root) as scratch:
        found = tqdm(paths.items(), desc="collecting", unit="run", disable=not progress)
        runs = ((name, kept.get(name) or parse(path)) for name, path in found)
        written = write_runs(runs, all_metrics(kept.values()), Path(scratch))
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(target)
    return target
