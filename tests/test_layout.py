"""No import runs upwards: the rooms of the project, and who may know whom."""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A module of `bayeshmm` imports from its own row and the rows above it in this
# list; "" is the package itself, whose `__init__` gathers the public names.
ROWS = (
    {"messages", "alignment", "defaults", "nested", "_arviz"},
    {"tidy", "sources", "runs", "lineage"},
    {"scaling", "metric_checks", "conditions"},
    {"transitions", "emissions", "distributions"},
    {"encoding", "own_encoding"},
    {"hmm", "simulation", "prior_draws"},
    {"inference", "hu2023"},
    {
        "posterior",
        "attribution",
        "checks",
        "decoding",
        "diagnostics",
        "differences",
        "evidence",
        "inference_data",
        "phases",
        "relabelling",
        "run_densities",
        "sensitivity",
    },
    {"storage", "fitting", "comparison", "events", "aligned"},
    {"plots"},
    {"analysis"},
    {""},
    {"cli"},
)
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}

# What a room may use besides the standard library, where that is narrow; who may draw; who may read
# the run store and the measuring of checkpoints, the parts of `training` that `bayeshmm` knows.
LIBRARIES = {
    "messages": {"llvmlite", "numba", "numpy", "torch"},
    "alignment": {"numpy", "scipy"},
    "distributions": {"pyro", "torch"},
    "tidy": {"numpy", "pandas"},
    "sources": {"numpy", "pandas", "pyarrow", "tensorboard", "wandb", "yaml"},
    "runs": {"numpy", "pandas"},
    "lineage": {"numpy", "pandas", "scipy"},
    "plots": {"matplotlib", "networkx", "numpy", "pandas", "scipy", "xarray"},
}
DRAWS = {"plots", "analysis", "cli"}
READS = {"sources": {"store", "checkpoints"}, "lineage": {"store"}}
# methods that hand over to a room above when they are called: `Comparison.plot`, `Posterior.save`
HANDS_OVER = {("comparison", "plots"), ("posterior", "storage")}
# what a notebook may import
PUBLIC = {"bayeshmm", "bayeshmm.messages", "bayeshmm.plots", "training", "training.store"}


def imported(module: str, source: str) -> Iterator[str]:
    """Every module or name that a source imports, anywhere in it, as a dotted path."""
    package = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            path = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{path}.{name.name}" for name in node.names)


def room(path: str) -> str:
    """The room of `bayeshmm` that a dotted path leads to; "" for a name of the package itself."""
    inside = path.split(".")[1:2]
    return inside[0] if inside and inside[0] in HEIGHT else ""


def violations(module: str, source: str) -> list[str]:
    """What a module imports although its room may not."""
    package, _, inside = module.partition(".")
    paths = list(imported(module, source))
    if package == "training":
        return [path for path in paths if path.split(".")[0] == "bayeshmm"]
    here = inside.split(".")[0].replace("__init__", "")
    if here not in HEIGHT:
        return [f"{here} has no row in ROWS"]
    found = []
    for path in paths:
        library = path.split(".")[0]
        if library == "bayeshmm":
            upwards = HEIGHT[room(path)] > HEIGHT[here]
            wrong = upwards and (here, room(path)) not in HANDS_OVER
        elif library == "training":
            wrong = not READS.get(here, set()).issuperset(path.split(".")[1:2] or [""])
        elif library == "matplotlib":
            wrong = here not in DRAWS
        else:
            foreign = library not in sys.stdlib_module_names
            wrong = foreign and library not in LIBRARIES.get(here, {library})
        if wrong:
            found.append(path)
    return found


def sources(package: str) -> dict[str, str]:
    """The modules of a package: dotted names (an `__init__` under its own name) to sources."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text("utf-8")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def code(notebook: str) -> str:
    """The Python of a notebook, magics left out."""
    cells = json.loads(notebook)["cells"]
    lines = [
        line
        for cell in cells
        if cell["cell_type"] == "code"
        for line in "".join(cell["source"]).splitlines()
    ]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def private_names(source: str) -> list[str]:
    """What a notebook uses of the two packages beyond their public names."""
    paths = [
        path
        for path in imported("notebook", source)
        if path.split(".")[0] in {"bayeshmm", "training"}
        and not {path, path.rpartition(".")[0]} & PUBLIC
    ]
    attributes = [
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
    ]
    return paths + attributes


@pytest.mark.parametrize("package", ["bayeshmm", "training"])
def test_no_import_runs_upwards(package):
    modules = sources(package)
    assert modules
    assert {name: found for name in modules if (found := violations(name, modules[name]))} == {}


def test_notebooks_use_public_names():
    notebooks = {
        path.name: code(path.read_text("utf-8")) for path in ROOT.rglob("notebooks/*.ipynb")
    }
    assert {name: found for name in notebooks if (found := private_names(notebooks[name]))} == {}


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("training.hooks", "import bayeshmm", "bayeshmm"),
        ("training.store.reader", "from bayeshmm.tidy import Tidy", "bayeshmm.tidy.Tidy"),
        (
            "bayeshmm.messages.kernel",
            "from bayeshmm.emissions import Gaussian",
            "bayeshmm.emissions.Gaussian",
        ),
        ("bayeshmm.messages.kernel", "from ..hmm import HMM", "bayeshmm.hmm.HMM"),
        ("bayeshmm.messages.kernel", "import pyro.distributions", "pyro.distributions"),
        ("bayeshmm.runs", "from bayeshmm import scaling", "bayeshmm.scaling"),
        ("bayeshmm.runs", "from training import store", "training.store"),
        ("bayeshmm.sources", "from training.hooks import MetricHook", "training.hooks.MetricHook"),
        ("bayeshmm.sources", "import training", "training"),
        ("bayeshmm.lineage", "from training import checkpoints", "training.checkpoints"),
        ("bayeshmm.transitions", "from bayeshmm.hmm import HMM", "bayeshmm.hmm.HMM"),
        ("bayeshmm.hmm", "def f():\n    from bayeshmm import inference", "bayeshmm.inference"),
        ("bayeshmm.inference.gibbs", "from bayeshmm import fit", "bayeshmm.fit"),
        ("bayeshmm.posterior", "import matplotlib.pyplot as plt", "matplotlib.pyplot"),
        (
            "bayeshmm.phases",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bayeshmm.plots",
            "bayeshmm.plots",
        ),
        ("bayeshmm.plots.panels", "from bayeshmm import cli", "bayeshmm.cli"),
        ("bayeshmm.unheard_of", "import torch", "unheard_of has no row in ROWS"),
    ],
)
def test_a_planted_violation_is_found(module, source, found):
    assert violations(module, "import math\n" + source) == [found]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("bayeshmm.sources", "from training import checkpoints, store"),
        ("bayeshmm.hmm", "from bayeshmm import messages\nfrom bayeshmm.runs import Runs"),
        ("bayeshmm.comparison", "from bayeshmm import plots"),
        ("bayeshmm.plots.panels", "from .style import INK\nimport matplotlib.pyplot"),
        ("bayeshmm.__init__", "from bayeshmm.plots import phases"),
        ("bayeshmm.cli", "from bayeshmm import fit"),
        ("training.hooks", "import torch\nfrom training.store import RunWriter"),
    ],
)
def test_imports_downwards_are_fine(module, source):
    assert violations(module, source) == []


def test_private_names_in_a_notebook_are_found():
    cells = [
        {"cell_type": "markdown", "source": ["import bayeshmm.hmm"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "import bayeshmm as bh"]},
        {"cell_type": "code", "source": ["from bayeshmm.hmm import HMM\n", "bh.Runs._of"]},
    ]
    notebook = json.dumps({"cells": cells})
    assert private_names(code(notebook)) == ["bayeshmm.hmm.HMM", "_of"]
