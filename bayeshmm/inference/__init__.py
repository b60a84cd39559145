"""Engines: variational inference, blocked Gibbs sampling, and the density of unseen runs."""
