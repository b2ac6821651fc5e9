"""Data sets of the benchmarks, prepared once under benchmarks/data/ (which git ignores).

python -m benchmarks.datasets fashion
"""

from __future__ import annotations

import glob
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
FASHION = Path("/usr/share/datasets/fashion-mnist")
PACKAGES_VARIABLE = "NOMAD_PACKAGES_PARQUET"
NAMES = ("fashion", "packages", "paths200k", "paths1m", "mixture20k", "mixture200k")


def fetch(name: str, parquet: str | None = None) -> tuple[Path, Path | str | None]:
    """Prepare a data set and return the path of its vectors, and its labels.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    parquet : str, optional
        The file of "packages", else the environment variable ``NOMAD_PACKAGES_PARQUET`` names it.

    Returns
    -------
    tuple of Path, and Path or str
        A ``.npy`` or Parquet file of vectors, and a ``.npy`` file of labels or the column that has them.
    """
    if name not in NAMES:
        raise SystemExit(f"{name!r} is no data set: give one of {', '.join(NAMES)}, or a file.")
    if name == "packages":
        path = parquet or os.environ.get(PACKAGES_VARIABLE)
        if not path or not Path(path).exists():
            raise SystemExit(f"packages: set {PACKAGES_VARIABLE} to the Parquet file (it is {path!r}).")
        return Path(path), "section"
    vectors, labels = DATA / f"{name}.npy", DATA / f"{name}-labels.npy"
    if not vectors.exists() or not labels.exists():
        print(f"preparing {name} ...", file=sys.stderr)
        DATA.mkdir(parents=True, exist_ok=True)
        if name == "fashion":
            X, codes = fashion()
        elif name.startswith("paths"):
            X, codes = paths(_count(name.removeprefix("paths")))
        else:
            X, codes = mixture(_count(name.removeprefix("mixture")))
        np.save(labels, codes)
        np.save(vectors, X)
    return vectors, labels


def _count(text: str) -> int:
    return int(text[:-1]) * {"k": 1000, "m": 1_000_000}[text[-1]]


def fashion(folder: Path = FASHION) -> tuple[np.ndarray, np.ndarray]:
    """Read Fashion-MNIST, train then test: 70,000 rows of 784 float32, and their classes."""
    if not folder.exists():
        raise SystemExit(f"{folder} is missing: apt-get install dataset-fashion-mnist")
    images = [_idx(folder / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    labels = [_idx(folder / f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")]
    X = np.concatenate(images)
    return X.reshape(len(X), -1).astype(np.float32), np.concatenate(labels)


def _idx(path: Path) -> np.ndarray:
    """Read bytes in the IDX format: two zeros, the type (8 for bytes), the number of axes, their lengths."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is no IDX file of bytes.")
    n_axes = content[3]
    shape = np.frombuffer(content, ">u4", n_axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def mixture(n: int, d: int = 64, n_groups: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw from Gaussians of unequal weight and width around random centers: float32, and their groups."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(n_groups, 0.5))
    groups = rng.choice(n_groups, n, p=weights)
    centers = rng.normal(size=(n_groups, d)).astype(np.float32)
    widths = rng.uniform(0.2, 0.8, n_groups).astype(np.float32)
    X = centers[groups] + widths[groups, None] * rng.standard_normal((n, d), np.float32)
    return X, groups.astype(np.int16)


def paths(n: int, d: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embed path names of the files in Debian (7 million exist), and return their packages' sections.

    Words and pairs of words are hashed, weighted by TF-IDF and reduced by a truncated SVD to unit rows.
    """
    import scipy.sparse as sp
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.preprocessing import normalize

    rng = np.random.default_rng(seed)
    pairs = list(_paths_and_sections())
    rows = rng.permutation(len(pairs))[:n]
    words = HashingVectorizer(
        token_pattern=r"[A-Za-z]{2,}|[0-9]+",
        ngram_range=(1, 2),
        n_features=2**18,
        alternate_sign=False,
        norm=None,
        dtype=np.float32,
        binary=True,
    )

    def counts(part: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix(words.transform(pairs[i][0] for i in part))

    sample = counts(rows[:200_000])
    weigh = TfidfTransformer(sublinear_tf=True).fit(sample)
    svd = TruncatedSVD(d, random_state=seed, n_iter=3).fit(weigh.transform(sample[:100_000]))
    X = np.empty((len(rows), d), np.float32)
    for s in range(0, len(rows), 100_000):
        part = normalize(svd.transform(weigh.transform(counts(rows[s : s + 100_000]))))
        X[s : s + len(part)] = part + rng.standard_normal(part.shape) * 1e-3  # no exact duplicates
    _, codes = np.unique([pairs[i][1] for i in rows], return_inverse=True)
    return X, codes.astype(np.int16)


def _paths_and_sections() -> Iterator[tuple[str, str]]:
    lists = sorted(glob.glob("/var/lib/apt/lists/*_main_Contents-*"))  # noqa: PTH207 - an absolute pattern
    if not lists:
        raise SystemExit("no lists of Debian's files: apt-get install apt-file && apt-file update")
    for name in lists:
        command = ["/usr/lib/apt/apt-helper", "cat-file", name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as p:
            assert p.stdout is not None
            for line in p.stdout:
                path, _, where = line.rstrip("\n").rpartition(" ")
                yield path.rstrip(), where.split(",")[0].split("/")[0]


if __name__ == "__main__":
    print(*fetch(*sys.argv[1:]))
