"""What a call takes beside its inputs and results."""

import json
import os
import subprocess
import sys

import pytest

# Peaks of a process of its own, whose allocator gives large arrays back at once.
MEASURE = """
import json, re, torch
from pathlib import Path
from bayeshmm import messages

def status(field):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+)", text)[1])

def size(result):
    results = [result] if isinstance(result, torch.Tensor) else result
    return sum(x.nbytes for x in results)

def inputs(T, K=16):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=g) for s in ((K,), (K, K), (T, K))]

names = "log_marginal", "expected_counts", "smooth", "filter", "viterbi", "sample_paths"
scratch = {}
for dwell in (1, 10):
    for name in names:
        for T in (10, 50_000, 100_000):  # the first compiles
            x = inputs(T)
            options = {"minimum_dwell": dwell}
            if name == "sample_paths":
                options["uniforms"] = torch.rand(T, dtype=torch.float64)
            Path("/proc/self/clear_refs").write_text("5")
            before = status("VmRSS")
            result = getattr(messages, name)(*x, **options)
            scratch[f"{name}, dwell {dwell}, {T}"] = (
                status("VmHWM") - before - size(result)
            ) / x[-1].nbytes
            del x, options, result
print(json.dumps(scratch))
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks of memory are Linux's to tell"
)
def test_scratch_is_at_most_eight_arrays_of_rows_times_states():
    """One run, at two lengths: linear in the rows. The library's own pages are the slack."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scratch = json.loads(done.stdout)
    assert len(scratch) == 36
    large = {setting: arrays for setting, arrays in scratch.items() if not setting.endswith(" 10")}
    assert {setting: arrays for setting, arrays in large.items() if arrays > 8.25} == {}
    assert large["expected_counts, dwell 1, 100000"] > 1  # something has been measured
