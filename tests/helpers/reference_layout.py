"""The loss and its descent direction in float64, by brute force from the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Case:
    """A small map: directed weights p(j|i), cells, and the moments that represent the other shards."""

    y: np.ndarray
    p: np.ndarray
    offsets: np.ndarray
    sampled_cells: np.ndarray
    means: np.ndarray
    counts: np.ndarray
    n_total: int
    n_noise: int
    n_negatives: int
    seed: int = 0
    epoch: int = 0


def kernel(a, b):
    return 1 / (1 + ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1))


def draws(case: Case) -> list[tuple[int, int, float]]:
    """List (row, sampled row, weight) of the paper's repulsion; the hash is splitmix64 on Python integers."""
    mask = (1 << 64) - 1
    out = []
    for c, targets in enumerate(case.sampled_cells):
        for slot, t in enumerate(targets):
            if t < 0:
                continue
            own = int(t == c)
            size = int(case.offsets[t + 1] - case.offsets[t])
            if size <= own:
                continue
            for draw in range(case.n_negatives):
                h = case.seed
                for part in (case.epoch, c, slot, draw):
                    h = ((h ^ part) * 0x9E3779B97F4A7C15) & mask
                    h ^= h >> 30
                    h = (h * 0xBF58476D1CE4E5B9) & mask
                    h ^= h >> 27
                o = own + h % (size - own)
                for i in range(case.offsets[c], case.offsets[c + 1]):
                    m = case.offsets[t] + (i - case.offsets[c] + o) % size
                    out.append((i, int(m), (size - own) / case.n_negatives))
    return out


def noise(case: Case, y: np.ndarray, repulsion: str) -> np.ndarray:
    """Return Z_i for |M| = n; the means of cells do not move with the rows."""
    if repulsion == "field":
        return kernel(y, y).sum(1) - 1
    z = np.zeros(len(y))
    cell_of = np.repeat(np.arange(len(case.offsets) - 1), np.diff(case.offsets))
    for i in range(len(y)):
        weights = case.counts.copy()
        if case.n_negatives:
            sampled = case.sampled_cells[cell_of[i]]
            weights[sampled[sampled >= 0]] = 0
        z[i] = (weights * kernel(y[i : i + 1], case.means)[0]).sum()
    for i, m, weight in draws(case) if case.n_negatives else []:
        z[i] += weight / (1 + ((y[i] - y[m]) ** 2).sum())
    return z


def loss(case: Case, y: np.ndarray, normalization: str, repulsion: str) -> float:
    """−Σ p log q + n·log(Z/n), or −Σ p log[q/(q + Z_i)] with Z_i scaled to |M| noise points."""
    q = kernel(y, y)
    z = noise(case, y, repulsion)
    if normalization == "global":
        n = case.n_total
        return float(-(case.p * np.log(q)).sum() + n * np.log(z.sum() * n / len(y) / n))
    z = z * case.n_noise / case.n_total
    return float(-(case.p * np.log(q / (q + z[:, None]))).sum())


def finite_differences(case: Case, normalization: str, repulsion: str, h: float = 1e-5) -> np.ndarray:
    """Return −∂L/∂y by central differences."""
    g = np.zeros_like(case.y)
    for i in np.ndindex(*case.y.shape):
        up, down = case.y.copy(), case.y.copy()
        up[i] += h
        down[i] -= h
        g[i] = -(loss(case, up, normalization, repulsion) - loss(case, down, normalization, repulsion)) / (2 * h)
    return g


def direction(case: Case, normalization: str, repulsion: str) -> np.ndarray:
    """Return the descent direction from the closed formulas of the method."""
    y, p = case.y, case.p
    apart = y[:, None, :] - y[None, :, :]
    q = kernel(y, y)
    z = noise(case, y, repulsion)
    if normalization == "global":
        a = p + p.T
        pushes = np.full(len(y), case.n_total / z.sum())  # n/Z, the same for every row's normalizer
    else:
        scale = case.n_noise / case.n_total
        z = z * scale
        forward = p * z[:, None] / (q + z[:, None])
        a = forward + forward.T
        pushes = (p / (q + z[:, None])).sum(1) * scale
    pull = ((a * q)[:, :, None] * apart).sum(1)
    if repulsion == "field":
        push = ((pushes[:, None] + pushes[None, :]) * q**2)[:, :, None] * apart
        push = push.sum(1)
    else:
        push = np.zeros_like(y)
        cell_of = np.repeat(np.arange(len(case.offsets) - 1), np.diff(case.offsets))
        for i in range(len(y)):
            weights = case.counts.copy()
            if case.n_negatives:
                sampled = case.sampled_cells[cell_of[i]]
                weights[sampled[sampled >= 0]] = 0
            qm = kernel(y[i : i + 1], case.means)[0]
            push[i] += pushes[i] * ((weights * qm**2)[:, None] * (y[i] - case.means)).sum(0)
        for i, m, weight in draws(case) if case.n_negatives else []:
            force = pushes[i] * weight / (1 + ((y[i] - y[m]) ** 2).sum()) ** 2 * (y[i] - y[m])
            push[i] += force
            push[m] -= force
    return 2 * (push - pull)
