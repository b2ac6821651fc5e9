"""The vectors of docstrings, in a file that is written again when the installed packages change."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from nomad_dask.callbacks.events import Emit
from nomad_dask.callbacks.progress_bars import stage_progress
from nomad_dask.demo.docstrings import Item
from nomad_dask.errors import InputError
from nomad_dask.storage.atomic import atomic_write

N_DIMS = 256
MAX_TEXT_LENGTH = 300
# The vectors need more texts than dimensions, and a good map needs a few hundred points.
MIN_ITEMS = 1000
METADATA_KEY = b"nomad_dask.demo"


def vectorize(texts: Sequence[str]) -> np.ndarray:
    """Return the vectors of latent semantic analysis: TF-IDF of the words, reduced by a truncated SVD.

    Parameters
    ----------
    texts : sequence of str
        At least a few hundred.

    Returns
    -------
    ndarray of float32, shape (len(texts), 256)
        Rows of unit length; the row of a text without a frequent word is zero.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, stop_words="english", min_df=3, max_df=0.5, dtype=np.float32)
    svd = TruncatedSVD(N_DIMS, n_iter=2, random_state=0)
    vectors = svd.fit_transform(words.fit_transform(texts))
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return units


def write_embeddings(path: Path, items: Sequence[Item], emit: Emit) -> None:
    """Compute the vectors of items and write them as Parquet: name, package, kind, text, embedding.

    Raises
    ------
    InputError
        There are not enough items.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(items) < MIN_ITEMS:
        raise InputError(
            f"Only {len(items)} docstrings were found, and the demo needs {MIN_ITEMS}: "
            "use a Python installation with sources (.py files)."
        )
    with stage_progress(emit, "vectors", len(items), "rows"):
        vectors = vectorize([item.docstring for item in items])
    rows = np.flatnonzero(np.any(vectors, axis=1))
    kept = [items[i] for i in rows.tolist()]
    table = pa.table(
        {
            "name": [item.name for item in kept],
            "package": [item.package for item in kept],
            "kind": [item.kind for item in kept],
            "text": [" ".join(item.docstring.split())[:MAX_TEXT_LENGTH] for item in kept],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors[rows].ravel()), N_DIMS),
        }
    )
    with atomic_write(path) as partial:
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: _environment()}), partial)


def is_current(path: Path) -> bool:
    """Return whether a file holds the embeddings of the packages that are installed now."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return False
    return bool(metadata.get(METADATA_KEY) == _environment())


def _environment() -> bytes:
    """Return the versions that the embeddings depend on: Python and the installed packages."""
    packages = sorted({f"{d.name}=={d.version}" for d in distributions()})
    return json.dumps({"format": 1, "python": platform.python_version(), "packages": packages}).encode()
