"""Labels of the parts of a map: from a column of names, or made of the words of a column of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomad_dask.errors import InputError
from nomad_dask.plotting.color_mapping import select_rows
from nomad_dask.plotting.column_values import as_arrow, check_groupable, group_values

LEVELS = (16, 64, 256)  # number of groups at each zoom level
_MAX_WORDS = 2  # of a label
_MAX_NAMES = 500  # values of a column that become labels
_MAX_NODES = 2000  # cells, or groups of cells, in the hierarchical clustering
_MAX_TEXTS = 200_000
_MAX_CHARACTERS = 1000  # of a text
_BINS = 64  # along each axis, to find the densest part of a group
_LEVEL_SHARES = (0.04, 0.01)  # minimum shares of the rows for a name of the first and of the second level


@dataclass(frozen=True)
class Label:
    """A text at a position.

    Attributes
    ----------
    text : str
    x, y : float
        The position, in the units of the map.
    weight : int
        Number of rows that it describes.
    level : int
        0 for large parts of the map, up to 2 for small ones.
    """

    text: str
    x: float
    y: float
    weight: int
    level: int


def labels_of_column(x: np.ndarray, y: np.ndarray, column: Any) -> list[Label]:
    """Return a label for each frequent value of a column, at the densest part of its rows.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; rows with NaN are left out.
    column : array-like or Arrow array of shape (n_rows,)
        Missing and empty values have no label.

    Raises
    ------
    InputError
        The column holds lists, bytes or values of mixed types.
    """
    shown = np.isfinite(x) & np.isfinite(y)
    column = as_arrow(column, "The column of labels")
    check_groupable(column, "The column of labels", "labels")
    groups = group_values(column if shown.all() else select_rows(column, np.flatnonzero(shown)))
    frequent = groups.most_frequent(_MAX_NAMES)
    named = [(code, text) for code, text in zip(frequent.tolist(), groups.names(frequent), strict=True) if text.strip()]
    kept = [code for code, _ in named]
    group = np.full(len(groups.counts) + 1, -1)
    group[kept] = np.arange(len(kept))
    centers = densest_points(x[shown], y[shown], group[groups.codes], len(kept))
    counts = groups.counts[kept]
    levels = (counts[:, None] / max(1, shown.sum()) < _LEVEL_SHARES).sum(axis=1)
    return [
        Label(text, x_at, y_at, int(count), int(level))
        for (_, text), (x_at, y_at), count, level in zip(named, centers.tolist(), counts, levels, strict=True)
    ]


def labels_of_text(x: np.ndarray, y: np.ndarray, text: Any, cells: Any = None) -> list[Label]:
    """Return labels made of the words that distinguish each part of a map from the others, at three zoom levels.

    Cells are clustered by position into 16, 64 and 256 groups, each inside a group of the level above. A word counts
    once per row. Its score in a group is class-based TF-IDF: its share of the words of the group, times
    ``log(1 + mean words of a group / rows that have it)``. A label has the word with the best score, and the next one
    if its score is at least half as high. Words of the groups above, and other forms of a word, are skipped. The label
    is at the densest part of the rows of the group that have its first word.

    Parameters
    ----------
    x, y : ndarray of shape (n_rows,)
        Positions; rows with NaN are left out.
    text : array-like or Arrow array of shape (n_rows,)
        At most 200,000 rows, drawn at random, are read, and 1,000 characters of each.
    cells : array-like of int (n_rows,), optional
        Small groups of nearby rows, such as the cells of a map; squares of the map by default.

    Raises
    ------
    InputError
        The column has no text.
    """
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    x, y = (np.asarray(axis)[shown].astype(np.float64) for axis in (x, y))
    groups = group_cells(x, y, None if cells is None else np.asarray(cells)[shown])
    rows = np.arange(shown.size)
    if shown.size > _MAX_TEXTS:
        rows = np.sort(np.random.default_rng(0).choice(shown.size, _MAX_TEXTS, replace=False, shuffle=False))
    has_word, words = _count_words(_read_texts(text, shown[rows]))
    number_of = {str(word): number for number, word in enumerate(words)}
    labels: list[Label] = []
    used_words: list[list[str]] = []
    above = np.zeros(shown.size, np.int64)
    for level, of_row in enumerate(groups):
        n_groups = int(of_row.max(initial=-1)) + 1
        scores = class_tf_idf(has_word, of_row[rows], n_groups)
        weights = np.bincount(of_row, minlength=n_groups)
        parents = np.zeros(n_groups, np.int64)
        parents[of_row] = above
        inherited = [used_words[parent] if used_words else [] for parent in parents]
        chosen = [_best_words(*pair, words) for pair in zip(scores, inherited, strict=True)]
        # A label is placed by the rows with its first word, because most rows of the group may be elsewhere.
        first = np.array([number_of[own[0]] if own else -1 for own in chosen], np.int64)
        has_first = np.where(_have_word(has_word, first[of_row[rows]]), of_row[rows], -1)
        centers = densest_points(x[rows], y[rows], has_first, n_groups)
        for group, own in enumerate(chosen):
            if own:
                x_at, y_at = centers[group].tolist()
                labels.append(Label(", ".join(own), x_at, y_at, int(weights[group]), level))
        used_words, above = [before + own for before, own in zip(inherited, chosen, strict=True)], of_row
    return labels


def group_cells(x: np.ndarray, y: np.ndarray, cells: np.ndarray | None) -> list[np.ndarray]:
    """Return the group of each row at each level of `LEVELS`, int64 (n_rows,), each level within the one above.

    Cells are clustered by Ward's method on the means of their rows, after K-Means if there are many.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage

    if not x.size:
        return [np.zeros(0, np.int64) for _ in LEVELS]
    if cells is None:
        cells = np.ravel_multi_index(tuple(_bins(x, y)), (_BINS, _BINS))
    _, nodes = np.unique(cells, return_inverse=True)
    means, counts = _means(x, y, nodes)
    if len(means) > _MAX_NODES:
        from sklearn.cluster import MiniBatchKMeans

        kmeans = MiniBatchKMeans(_MAX_NODES, random_state=0, n_init=1, batch_size=8192)
        nodes = np.unique(kmeans.fit_predict(means, sample_weight=counts)[nodes], return_inverse=True)[1]
        means, counts = _means(x, y, nodes)
    if len(means) == 1:
        return [np.zeros(x.size, np.int64) for _ in LEVELS]
    # At least two cells to a group: the words of a single cell say little.
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


def densest_points(x: np.ndarray, y: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Return the densest point of each group, float64 (n_groups, 2); rows of group -1 are ignored.

    The mean of a group may be at a position without any of its rows.
    """
    from scipy.ndimage import gaussian_filter

    in_group = groups >= 0
    x, y, groups = x[in_group].astype(np.float64), y[in_group].astype(np.float64), groups[in_group]
    bins = np.array(_bins(x, y))
    flat = np.ravel_multi_index((groups, *bins), (n_groups, _BINS, _BINS)) if n_groups else groups
    density = np.bincount(flat, minlength=n_groups * _BINS**2).reshape(n_groups, _BINS, _BINS).astype(np.float32)
    density = gaussian_filter(density, (0, 1, 1), mode="constant")
    peaks = np.array(np.unravel_index(density.reshape(n_groups, _BINS**2).argmax(axis=1), (_BINS, _BINS)))
    near = (np.abs(bins - peaks[:, groups]) <= 1).all(axis=0)
    means, _ = _means(x[near], y[near], groups[near], n_groups)
    return means


def _bins(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the bin of each row along each axis."""
    bins = []
    for axis in (x, y):
        low, span = (axis.min(), np.ptp(axis)) if axis.size else (0.0, 1.0)
        bins.append(np.minimum((axis - low) / (span or 1.0) * _BINS, _BINS - 1).astype(np.int64))
    return bins


def _means(x: np.ndarray, y: np.ndarray, groups: np.ndarray, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean position of each group, and its number of rows."""
    n = int(groups.max()) + 1 if n is None else n
    counts = np.bincount(groups, minlength=n)
    sums = np.stack([np.bincount(groups, axis.astype(np.float64), n) for axis in (x, y)], axis=1)
    return sums / np.maximum(counts, 1)[:, None], counts


def _read_texts(text: Any, rows: np.ndarray) -> list[str]:
    """Return the texts of some rows, in order, cut to the maximum length; a missing text is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = as_arrow(text, "The column of texts")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in tests):
        raise InputError(f"Labels cannot be made of this column ({kind}): use a column of text with words.")
    values = pc.utf8_slice_codeunits(select_rows(column, rows).cast(pa.large_string()), 0, _MAX_CHARACTERS).to_pylist()
    return ["" if value is None else value for value in values]


def _count_words(texts: list[str]) -> tuple[Any, np.ndarray]:
    """Return a sparse matrix (n_texts, n_words) with 1 where a text has a word, and the words."""
    from sklearn.feature_extraction.text import CountVectorizer

    # Words start with a letter and, in a large column, occur in at least three texts.
    counter = CountVectorizer(
        token_pattern=r"(?u)\b[^\W\d_]\w+\b",  # noqa: S106 - not a password
        stop_words="english",
        binary=True,
        min_df=3 if len(texts) >= 1000 else 1,
        max_features=50_000,
    )
    try:
        has_word = counter.fit_transform(texts)
    except ValueError as error:
        raise InputError(f"Labels cannot be made of this column ({error}): use a column of text with words.") from error
    return has_word, counter.get_feature_names_out()


def _have_word(has_word: Any, words: np.ndarray) -> np.ndarray:
    """Return for each row whether it has its word, given by number (n_rows,); -1 stands for no word."""
    have = np.asarray(has_word[np.arange(len(words)), words]).ravel() > 0
    return np.asarray(have & (words >= 0))


def _best_words(scores: np.ndarray, used: list[str], words: np.ndarray) -> list[str]:
    """Return the words with the best scores that are not forms of a used one."""
    chosen: list[str] = []
    min_score = 0.0
    for i in np.argsort(-scores, kind="stable")[:100]:
        if scores[i] <= min_score or len(chosen) == _MAX_WORDS:
            break
        word = str(words[i])
        if not any(same_word(word, other) for other in [*used, *chosen]):
            chosen.append(word)
            min_score = scores[i] / 2
    return chosen


def same_word(a: str, b: str) -> bool:
    """Return whether two words are forms of one, such as ``library`` and ``libraries``."""
    shared = next((i for i, (c, d) in enumerate(zip(a, b, strict=False)) if c != d), min(len(a), len(b)))
    return a == b or shared >= max(3, 0.65 * max(len(a), len(b)))
