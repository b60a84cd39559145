"""Without its library a callback says what to install; the package itself needs none."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("lightning", "lightning", "lightning"),
        ("huggingface", "transformers", "huggingface"),
        ("accelerate", "accelerate", "huggingface"),
    ],
)
def test_an_absent_library_is_named(monkeypatch, module, library, extra):
    path = f"training.integrations.{module}"
    monkeypatch.delitem(sys.modules, path, raising=False)
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{path} needs .*pip install 'bayeshmm\[{extra}\]'"):
        importlib.import_module(path)
