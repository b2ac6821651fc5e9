"""Fit one of the peers with its defaults, as in its README, from a file of vectors to a file of positions.

    python peers.py METHOD VECTORS.npy POSITIONS.npy SEED

There are two exceptions to the defaults: all cores are used, and the seed is set without disabling threads.
"""

import sys

import numpy as np


def open_tsne(X: np.ndarray, seed: int) -> np.ndarray:
    from openTSNE import TSNE

    return np.asarray(TSNE(n_jobs=-1, random_state=seed).fit(X))


def umap(X: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP

    np.random.seed(seed)  # noqa: NPY002 - random_state= would limit UMAP to one thread
    return UMAP(n_jobs=-1).fit_transform(X)


def pacmap(X: np.ndarray, seed: int) -> np.ndarray:
    from pacmap import PaCMAP

    np.random.seed(seed)  # noqa: NPY002 - random_state= would limit PaCMAP to one thread
    return PaCMAP().fit_transform(X)


METHODS = {"openTSNE": open_tsne, "umap-learn": umap, "PaCMAP": pacmap}


if __name__ == "__main__":
    method, vectors, positions, seed = sys.argv[1:]
    np.save(positions, METHODS[method](np.load(vectors), int(seed)).astype(np.float32))
