"""Lengths and directions of any finite float64 rows, without overflow or underflow."""

from __future__ import annotations

import numpy as np


def power_of_two(exponents: np.ndarray | int) -> np.ndarray:
    """Return powers of two, from 2**-1000 to 2**1000, so that neither they nor their inverses overflow."""
    return np.asarray(np.ldexp(1.0, np.clip(exponents, -1000, 1000)))


def row_norms(rows: np.ndarray) -> np.ndarray:
    """Return the Euclidean norm of each row (n, d) of float64, without overflow or underflow of the squares."""
    largest = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
    # By powers of two, so that scaling rounds nothing.
    factors = power_of_two(-np.frexp(largest)[1])
    scaled = rows * factors[:, None]
    with np.errstate(over="ignore"):
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", scaled, scaled)) / factors)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows (n, d) of float64 scaled to unit length; rows of zeros are left as they are."""
    scaled = rows * power_of_two(-np.frexp(np.abs(rows).max(axis=1, initial=0))[1])[:, None]
    lengths = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    scaled /= np.where(lengths == 0, 1, lengths)[:, None]
    return np.asarray(scaled)
