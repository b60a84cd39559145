"""How much each metric says of the phase: the derivative of the log probability of a state."""

from __future__ import annotations

from torch import Tensor


def log_posterior_gradient(scores: Tensor, filtered: Tensor, state: int) -> Tensor:
    """Gradient of ``log p(s_t = k | z_1:t)`` with respect to the row z_t.

    The state's probability given the rows before it does not depend on z_t, so that Bayes' rule
    leaves the score of state k less its mean over the states: for Gaussian levels (Hu et al. 2023,
    Appendix A) ``Sigma_k^-1 (mu_k - z_t) - sum_h p(s_t = h | z_1:t) Sigma_h^-1 (mu_h - z_t)``.

    Parameters
    ----------
    scores
        Gradient of the log density of the row under every state, given the rows before it,
        (..., K, D).
    filtered
        ``p(s_t = h | z_1:t)``, (..., K).
    state
        k.

    Returns
    -------
    Tensor
        (..., D).

    Notes
    -----
    The paper averages the size of this gradient over the runs, at their first row in k. Its
    published code (github.com/michahu/modeling-training) does something else: the mean that is
    subtracted is summed over the metrics too and so is one number for all of them; signed gradients
    are averaged before their size is taken, so that runs on either side of the mean cancel; and it
    looks at the last row before k.

    It is a sensitivity: how fast certainty would change if the metric did. It is large for a metric
    of little noise, whether or not that metric changes, and vanishes where the state is certain.
    """
    return scores[..., state, :] - (filtered[..., None] * scores).sum(-2)
