"""The pages of the documentation: their links lead somewhere, and their code runs as written."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md"))
WITHOUT_EXTRAS = {"README.md", "logs.md", "own_loop.md"}


def blocks(page):
    """The Python of a page, block by block, each at its line; scripts with a name are left out."""
    found = []
    for match in re.finditer(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        if not re.match(r"# \w+\.py", match[1]):
            line = page.read_text("utf-8")[: match.start(1)].count("\n")
            found.append("\n" * line + match[1])
    return found


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.fixture
def one_thread():
    """Small networks train faster on one thread, and much faster where other work goes on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",  # in Lightning
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*does not have many workers",
    "ignore:Hugging Face trainer states, trainer",  # of a page that shows it
    "ignore:run 'seed-0'. the rows of steps",  # of a page about uneven rows
    "ignore:unclosed file:ResourceWarning",  # of a run that a page leaves as a crash would
    "ignore:.*metrics.0000.jsonl:pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=page.name,
            marks=() if page.name in WITHOUT_EXTRAS else pytest.mark.integration,
        )
        for page in PAGES
    ],
)
def test_the_code_runs_as_written(page, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)
