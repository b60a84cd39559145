"""What a measure finds in a model, without a hook around it."""

import numpy as np
import torch

from training.parameters import weights_of
from training.patterns import matching


def measure(kind, model, include=None, **options):
    weights = weights_of(model)
    names = matching("include", include, [weight.name for weight in weights])
    return kind(model, weights, [weight for weight in weights if weight.name in names], **options)


def row_of(measured):
    """Return the metrics of a measure, whose keys must be those that it defines."""
    row = measured.evaluate([tensor.double().numpy() for tensor in measured.collect()])
    assert row.keys() == measured.definitions().keys()
    return row


def measured(kind, model, include=None, **options):
    return row_of(measure(kind, model, include, **options))


def randomised(model, seed=0, dtype=torch.float32):
    """Return the model with normal parameters of different scales, so that nothing is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            values = torch.randn(parameter.shape, generator=generator) * 0.5 ** (i % 5) + 0.01 * i
            parameter.copy_(values)
    return model.to(dtype)


def array(parameter):
    return np.asarray(parameter.detach().double().numpy())
