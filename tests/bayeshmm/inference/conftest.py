"""Steps of the engines that tests take by hand run on one thread, as whole fits do."""

import pytest

from bayeshmm.inference.threads import one_thread


@pytest.fixture(autouse=True)
def single_thread():
    """Threads of small operations wait for one another longer than they work."""
    with one_thread():
        yield
