"""What is where on a map: labels from a column of names, or made of the words of a column of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.plotting.color_mapping import as_series, rows_of

LEVELS = (16, 64, 256)  # groups of the map at each zoom level
_WORDS = 2  # of a label
_MOST_NAMES = 500  # values of a column that are tried
_MOST_NODES = 2000  # cells, or groups of them, that are joined to a tree
_MOST_TEXTS = 200_000
_LONGEST_TEXT = 1000  # characters
_BINS = 64  # along each axis, when looking where most of a group is
_OFTEN = (0.04, 0.01)  # shares of the rows from which a name is of the first and of the second level


@dataclass(frozen=True)
class Label:
    """A text that belongs to a place.

    Attributes
    ----------
    text : str
    x, y : float
        The place, in the units of the map.
    weight : int
        Rows that it stands for.
    level : int
        0 for what is seen from afar, 2 for what is seen from near.
    """

    text: str
    x: float
    y: float
    weight: int
    level: int


def labels_of_column(x: np.ndarray, y: np.ndarray, column: Any) -> list[Label]:
    """Return a label for each frequent value of a column, where most of its rows are.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; rows with NaN are left out.
    column : array-like or Arrow array of shape (n_rows,)
        Missing and empty values have no label.
    """
    import pandas as pd

    shown = np.isfinite(x) & np.isfinite(y)
    codes, values = pd.factorize(as_series(column)[shown])
    names = [str(value) for value in values]
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    kept = [code for code in np.lexsort((np.arange(len(names)), -counts))[:_MOST_NAMES] if names[code].strip()]
    place = np.full(len(names) + 1, -1)
    place[kept] = np.arange(len(kept))
    places = most_crowded(x[shown], y[shown], place[codes], len(kept))
    shares = counts[kept] / max(1, shown.sum())
    levels = (shares[:, None] < _OFTEN).sum(axis=1)
    return [
        Label(names[code], x_at, y_at, int(counts[code]), int(level))
        for code, (x_at, y_at), level in zip(kept, places.tolist(), levels, strict=True)
    ]


def labels_of_text(x: np.ndarray, y: np.ndarray, text: Any, cells: Any = None) -> list[Label]:
    """Return labels made of the words that tell each part of a map from the others, at three zoom levels.

    Near cells are joined to 16, 64 and 256 groups, each within one of the level above. A word counts once a row. Its
    score in a group is class-based TF-IDF: its share of the words of the group, times ``log(1 + mean words of a
    group / rows that have it)``. A label has the best word, and the next one where that says half as much; words of
    the groups that hold a group, and other forms of a word, are passed over. It stands where most rows of the group
    say its first word.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; rows with NaN are left out.
    text : array-like or Arrow array of shape (n_rows,)
        At most 200,000 rows drawn at random are read, and 1,000 characters of each.
    cells : array-like of int (n_rows,), optional
        Small groups of near rows, as a map has them; squares of the map without it.

    Raises
    ------
    InputError
        The column has no text.
    """
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    x, y = np.asarray(x)[shown], np.asarray(y)[shown]
    groups = groups_of_cells(x, y, None if cells is None else np.asarray(cells)[shown])
    rows = np.arange(shown.size)
    if shown.size > _MOST_TEXTS:
        rows = np.sort(np.random.default_rng(0).choice(shown.size, _MOST_TEXTS, replace=False, shuffle=False))
    has_word, words = _words_of(_taken(text, shown[rows]))
    number_of = {str(word): number for number, word in enumerate(words)}
    labels: list[Label] = []
    said: list[list[str]] = []
    above = np.zeros(shown.size, np.int64)
    for level, of_row in enumerate(groups):
        n_groups = int(of_row.max(initial=-1)) + 1
        scores = class_tf_idf(has_word, of_row[rows], n_groups)
        weights = np.bincount(of_row, minlength=n_groups)
        parents = np.zeros(n_groups, np.int64)
        parents[of_row] = above
        before = [said[parent] if said else [] for parent in parents]
        own = [_best(of_group, words, known) for of_group, known in zip(scores, before, strict=True)]
        # A label belongs where its first word is said: most rows of the group may be elsewhere.
        first = np.array([number_of[found[0]] if found else -1 for found in own], np.int64)
        of_said = np.where(_have(has_word, first[of_row[rows]]), of_row[rows], -1)
        places = most_crowded(x[rows], y[rows], of_said, n_groups)
        for group, found in enumerate(own):
            if found:
                x_at, y_at = places[group].tolist()
                labels.append(Label(", ".join(found), x_at, y_at, int(weights[group]), level))
        said, above = [known + found for known, found in zip(before, own, strict=True)], of_row
    return labels


def groups_of_cells(x: np.ndarray, y: np.ndarray, cells: np.ndarray | None) -> list[np.ndarray]:
    """Return the group of each row at each level of `LEVELS`, int64 (n_rows,), each level within the one above.

    Cells are joined by Ward's method on the means of their rows; many cells by K-Means first.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage

    if not x.size:
        return [np.zeros(0, np.int64) for _ in LEVELS]
    if cells is None:
        cells = np.ravel_multi_index(tuple(_bins(x, y)), (_BINS, _BINS))
    _, nodes = np.unique(cells, return_inverse=True)
    means, counts = _means(x, y, nodes)
    if len(means) > _MOST_NODES:
        from sklearn.cluster import MiniBatchKMeans

        joined = MiniBatchKMeans(_MOST_NODES, random_state=0, n_init=1, batch_size=8192)
        nodes = np.unique(joined.fit_predict(means, sample_weight=counts)[nodes], return_inverse=True)[1]
        means, counts = _means(x, y, nodes)
    if len(means) == 1:
        return [np.zeros(x.size, np.int64) for _ in LEVELS]
    # A group of a single cell is told by its row's neighbours, not by its words.
    cuts = [min(n, max(1, len(means) // 2)) for n in LEVELS]
    tree = cut_tree(linkage(means, "ward"), n_clusters=cuts)
    return [tree[nodes, i].astype(np.int64) for i in range(len(LEVELS))]


def class_tf_idf(has_word: Any, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the class-based TF-IDF of every word in every group, float64 (n_groups, n_words).

    Parameters
    ----------
    has_word : sparse matrix (n_rows, n_words)
        1 where a row has a word.
    groups : ndarray of int (n_rows,)
        Group of each row.
    n_groups : int
    """
    from scipy.sparse import csr_array

    n = len(groups)
    of_group = csr_array((np.ones(n), (groups, np.arange(n))), shape=(n_groups, n))
    counts = (of_group @ has_word).toarray().astype(np.float64)
    in_group = counts.sum(axis=1)
    share = counts / np.maximum(in_group, 1)[:, None]
    rarity = np.log1p(in_group.mean() / np.maximum(counts.sum(axis=0), 1))
    return np.asarray(share * rarity)


def most_crowded(x: np.ndarray, y: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return where most rows of each group are, float64 (n_groups, 2); rows of group -1 are left out.

    Not the mean, which may lie where the group has no row.
    """
    from scipy.ndimage import gaussian_filter

    counted = groups >= 0
    x, y, groups = x[counted].astype(np.float64), y[counted].astype(np.float64), groups[counted]
    bins = np.array(_bins(x, y))
    flat = np.ravel_multi_index((groups, *bins), (n_groups, _BINS, _BINS)) if n_groups else groups
    crowd = np.bincount(flat, minlength=n_groups * _BINS**2).reshape(n_groups, _BINS, _BINS).astype(np.float32)
    crowd = gaussian_filter(crowd, (0, 1, 1), mode="constant")
    top = np.array(np.unravel_index(crowd.reshape(n_groups, _BINS**2).argmax(axis=1), (_BINS, _BINS)))
    near = (np.abs(bins - top[:, groups]) <= 1).all(axis=0)
    means, _ = _means(x[near], y[near], groups[near], n_groups)
    return means


def _bins(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the bin of each row along each axis."""
    found = []
    for axis in (x, y):
        low, span = (axis.min(), np.ptp(axis)) if axis.size else (0.0, 1.0)
        found.append(np.minimum((axis - low) / (span or 1.0) * _BINS, _BINS - 1).astype(np.int64))
    return found


def _means(x: np.ndarray, y: np.ndarray, groups: np.ndarray, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean position of each group, and its rows."""
    n = int(groups.max()) + 1 if n is None else n
    counts = np.bincount(groups, minlength=n)
    sums = np.stack([np.bincount(groups, axis.astype(np.float64), n) for axis in (x, y)], axis=1)
    return sums / np.maximum(counts, 1)[:, None], counts


def _taken(text: Any, rows: np.ndarray) -> list[str]:
    """Return the texts of some rows, in order, cut; missing ones are empty."""
    import pyarrow as pa

    if isinstance(text, pa.Array | pa.ChunkedArray):
        values = rows_of(text, rows).to_pylist()
    else:
        values = as_series(text).iloc[rows].tolist()
    return [value[:_LONGEST_TEXT] if isinstance(value, str) else "" for value in values]


def _words_of(texts: list[str]) -> tuple[Any, np.ndarray]:
    """Return which text has which word, sparse (n_texts, n_words), and the words."""
    from sklearn.feature_extraction.text import CountVectorizer

    # Words begin with a letter and are in three texts at least, in so far as there are that many.
    counter = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]\w+\b",  # noqa: S106 - no password
        stop_words="english",
        binary=True,
        min_df=3 if len(texts) >= 1000 else 1,
        max_features=50_000,
    )
    try:
        has_word = counter.fit_transform(texts)
    except ValueError as error:
        raise InputError(f"Labels cannot be made of this column ({error}): name one of text, with words.") from error
    return has_word, counter.get_feature_names_out()


def _have(has_word: Any, words: np.ndarray) -> np.ndarray:
    """Return whether each row has the word of this number (n_rows,); -1 is none."""
    found = np.asarray(has_word[np.arange(len(words)), words]).ravel() > 0
    return np.asarray(found & (words >= 0))


def _best(scores: np.ndarray, words: np.ndarray, before: list[str]) -> list[str]:
    """Return the words with the best scores that say something new."""
    chosen: list[str] = []
    least = 0.0
    for i in np.argsort(-scores, kind="stable")[:100]:
        if scores[i] <= least or len(chosen) == _WORDS:
            break
        word = str(words[i])
        if not any(alike(word, other) for other in [*before, *chosen]):
            chosen.append(word)
            least = scores[i] / 2
    return chosen


def alike(a: str, b: str) -> bool:
    """Tell whether two words are forms of one, such as ``library`` and ``libraries``."""
    same = next((i for i, (c, d) in enumerate(zip(a, b, strict=False)) if c != d), min(len(a), len(b)))
    return a == b or same >= max(3, 0.65 * max(len(a), len(b)))
