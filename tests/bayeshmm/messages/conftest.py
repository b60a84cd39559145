import pytest

import bayeshmm.messages
from bayeshmm.messages import kernel, reference


@pytest.fixture(params=[kernel, reference], ids=["compiled", "torch"])
def backend(request):
    """Compiled code or plain torch."""
    return request.param


@pytest.fixture
def messages(backend, monkeypatch):
    """The public functions on either backend."""
    monkeypatch.setattr(bayeshmm.messages, "_backend", lambda chain: backend)
    return bayeshmm.messages
