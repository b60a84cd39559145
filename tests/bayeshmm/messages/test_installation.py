"""Compiled code where packages live: in other processes, and where nothing can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from joblib import Parallel, delayed

import bayeshmm
from bayeshmm import messages

PACKAGE = Path(bayeshmm.__file__).parent

COMPUTE = """
import torch
from numba.core import event
from bayeshmm import messages

inputs = [torch.tensor(x, dtype=torch.float64) for x in ({inputs})]
with event.install_recorder("numba:compile") as compilations:
    print(messages.log_marginal(*inputs, minimum_dwell=2).item().hex())
    print(messages.smooth(*inputs, minimum_dwell=2)[1, 0].item().hex())
    print(messages.viterbi(*inputs, minimum_dwell=2).log_probability.item().hex())
print(len(compilations.buffer))
"""


def inputs() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=g) for s in ((2,), (2, 2), (9, 2))]


def run(source: str, **changes: str | None) -> str:
    """What a Python of its own prints, with changes to the environment (None: unset)."""
    environment = os.environ | {k: v for k, v in changes.items() if v is not None}
    environment = {k: v for k, v in environment.items() if changes.get(k, v) is not None}
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="caches go elsewhere there")
def test_an_installation_where_nothing_can_be_written(tmp_path):
    """Neither beside the package nor at home, not even by root: then nothing is cached."""
    package = tmp_path / "bayeshmm"
    shutil.copytree(
        PACKAGE / "messages", package / "messages", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "__init__.py").touch()
    (package / "messages" / "__pycache__").touch()  # a file, where the folder would be
    for path in (*package.rglob("*"), package, tmp_path):
        path.chmod(path.stat().st_mode & ~0o222)
    source = "\n".join(
        [
            "import torch",
            "from bayeshmm import messages",
            "x = torch.zeros(2), torch.full((2, 2), 0.5).log(), torch.ones(3, 2)",
            "print(messages.__file__)",
            "print(messages.log_marginal(*x).item())",
        ]
    )
    try:
        printed = run(
            source,
            PYTHONPATH=str(tmp_path),
            PYTHONSAFEPATH="1",
            HOME=os.devnull,
            XDG_CACHE_HOME=None,
            NUMBA_CACHE_DIR=None,
        )
    finally:
        for path in (tmp_path, package, *package.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
    file, value = printed.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert float(value) == pytest.approx(3 + torch.tensor(2.0).log().item(), abs=1e-7)


def test_a_second_process_loads_what_the_first_has_compiled():
    """From files on disk; and its results are those of this process."""
    x = inputs()
    results = [
        messages.log_marginal(*x, minimum_dwell=2),
        messages.smooth(*x, minimum_dwell=2)[1, 0],
        messages.viterbi(*x, minimum_dwell=2).log_probability,
    ]
    printed = run(COMPUTE.format(inputs=", ".join(str(v.tolist()) for v in x)))
    *values, compilations = printed.splitlines()
    assert values == [result.item().hex() for result in results]
    assert compilations == "0"


def test_joblib_workers_compute_what_this_process_computes():
    jobs = [(function, inputs()) for function in (messages.expected_counts, messages.viterbi)]
    with Parallel(n_jobs=2, backend="loky") as workers:
        got = workers(delayed(function)(*x, minimum_dwell=2) for function, x in jobs)
    for result, (function, x) in zip(got, jobs, strict=True):
        for a, b in zip(result, function(*x, minimum_dwell=2), strict=True):
            assert torch.equal(a, b)
