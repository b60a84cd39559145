"""Singular values: products on the device, eigenvalues of small matrices on the host.

On CUDA no decomposition runs, because each would wait for its result.
"""

import numpy as np
import torch
from torch import Tensor

from training.metrics.measure import Floats

EXACT = 1024
"""The largest short side of a matrix whose singular values are all computed by default.

Its product takes 8 MB on the device and on the host, and its eigenvalues 80 ms of one CPU core;
both grow with the square and the cube of the side.
"""

FIRST_STEPS, STEPS = 50, 2
"""Steps of the power iteration at the first measurement, and at every later one."""

BLOCK = 8
"""Vectors that are iterated together, so that a singular value that overtakes the largest is seen.

A single vector would stay with the one that it found first, and its residual would not tell.
"""


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none.

    Parameters
    ----------
    tensor
        Any floating-point tensor; one on Apple's GPUs is waited for.
    """
    return _able(tensor).double()


def gram(matrices: Tensor) -> Tensor:
    """Return ``W W^T``, or ``W^T W`` where that is smaller, in float64.

    Parameters
    ----------
    matrices
        One matrix or a stack of them, of shape (..., m, n).

    Returns
    -------
    Tensor
        The products, of shape (..., k, k) with k = min(m, n).
    """
    wide = in_float64(matrices)
    wide = wide if wide.shape[-2] <= wide.shape[-1] else wide.mT
    return wide @ wide.mT


def singular_values(grams: Floats) -> Floats:
    """Return the singular values of matrices, in descending order; NaN where one is not finite.

    Those below about 1e-8 of the largest are rounding noise: their squares are smaller than the
    rounding errors of the largest one's.

    Parameters
    ----------
    grams
        The products from `gram`, of shape (..., k, k).

    Returns
    -------
    Floats
        Shape (..., k).
    """
    finite = np.asarray(np.isfinite(grams).all(axis=(-2, -1)))
    # torch's, on as many threads as the training has: NumPy's would be its own, and spin
    allowed = torch.from_numpy(np.where(finite[..., None, None], grams, 0.0))
    squares = torch.linalg.eigvalsh(allowed).numpy()
    return np.where(finite[..., None], np.sqrt(np.maximum(squares, 0.0))[..., ::-1], np.nan)


class PowerIteration:
    """Follows the largest singular value of a matrix too large for all of them.

    A block of orthonormal vectors is iterated by ``W^T W`` (or ``W W^T``); it starts where the last
    measurement ended. The eigenvalues of ``W^T W`` within the block (Rayleigh-Ritz; Saad 2011,
    Numerical Methods for Large Eigenvalue Problems, chapters 4 and 5) are those of an 8 x 8 matrix.

    Attributes
    ----------
    basis
        The block, of shape (k, 8) with k = min(m, n); None before the first measurement.
    """

    def __init__(self) -> None:
        self.basis: Tensor | None = None

    def collect(self, matrix: Tensor) -> Tensor:
        """Iterate, and return what `largest` needs.

        Parameters
        ----------
        matrix
            Shape (m, n); half precision is iterated in float32.

        Returns
        -------
        Tensor
            ``V^T A V`` and ``R^T R``, of shape (2, 8, 8), with the block V, ``A = W^T W`` and the
            residual ``R = A V - V (V^T A V)``.
        """
        wide = _able(matrix).to(torch.promote_types(matrix.dtype, torch.float32))
        wide = wide if wide.shape[0] >= wide.shape[1] else wide.mT
        steps = FIRST_STEPS if self.basis is None else STEPS
        start = _start(wide.shape[1]) if self.basis is None else self.basis
        basis = start.to(wide.device, wide.dtype, non_blocking=True)
        image = wide.mT @ (wide @ basis)
        for _ in range(steps - 1):
            basis = _orthonormal(image, basis)
            image = wide.mT @ (wide @ basis)
        within = basis.mT @ image
        residual = image - basis @ within
        self.basis = _orthonormal(image, basis)
        return torch.stack([within, residual.mT @ residual])


def largest(collected: Floats) -> tuple[float, float]:
    """Return the largest singular value that a power iteration has found, and its relative error.

    Parameters
    ----------
    collected
        What `PowerIteration.collect` returned.

    Returns
    -------
    value : float
        The singular value s, never above the largest one but for rounding; NaN if the matrix is
        not finite.
    error : float
        ``|A v - s^2 v| / s^2``. A singular value lies within half of it, so that it bounds the
        error as soon as the block has found the largest one's direction: it cannot tell of a
        direction that is still hidden among many that are nearly as large.
    """
    within, residual = collected
    if not np.isfinite(collected).all():
        return np.nan, np.nan
    squares, vectors = np.linalg.eigh(within)
    square, vector = squares[-1], vectors[:, -1]
    if square <= 0.0:
        return 0.0, 0.0
    error = np.sqrt(max(float(vector @ residual @ vector), 0.0)) / square
    return float(np.sqrt(square)), float(error)


def _able(tensor: Tensor) -> Tensor:
    """Return a tensor on a device that can do this: Apple's GPUs lack float64 and QR."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _start(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(size, BLOCK, generator=generator, dtype=torch.float32)).Q


def _orthonormal(image: Tensor, basis: Tensor) -> Tensor:
    """Return a basis of the image; the old one where the image is zero or not finite."""
    useful = torch.isfinite(image).all() & (image != 0).any()
    return torch.where(useful, torch.linalg.qr(image).Q, basis)
