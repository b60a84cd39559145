"""The analysis of Hu, Chen, Saphra and Cho (2023), repeated: to compare with, not to rely on.

Michael Y. Hu, Angelica Chen, Naomi Saphra, Kyunghyun Cho, "Latent State Models of Training
Dynamics", TMLR 2023, arXiv:2308.09543.
"""

from bayeshmm.hu2023.derivative import log_posterior_gradient
from bayeshmm.hu2023.gaussian_hmm import GaussianHMM
from bayeshmm.hu2023.protocol import Hu2023Comparison, compare

__all__ = ["GaussianHMM", "Hu2023Comparison", "compare", "log_posterior_gradient"]
