"""Clean runs that faults are planted in: real ones, trained once."""

import pytest

import training
import training.store


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Ten runs that memorise sparse parity in 61 rows, 10 steps apart; never changed."""
    out = tmp_path_factory.mktemp("parity")
    small = {"width": 100, "bits": 20, "train_points": 200, "test_points": 200, "batch": 20}
    training.sweep("sparse_parity", seeds=10, out=out, epochs=60, progress=False, **small)
    return out


@pytest.fixture(scope="session")
def clean(folder):
    """The same runs as a tidy frame."""
    return training.store.read(folder).rows


@pytest.fixture
def frame(clean):
    """A copy of `clean` to plant faults in."""
    return clean.copy()
