"""Names of the artifacts of a shard's graph."""

from __future__ import annotations

# With one normalizer for all points the weights are those of codes, and each edge has a code. With one per point each
# edge has a weight, and p(j|i) besides it: every epoch computes other weights from both.
WEIGHT_CODES, CONDITIONAL_P = "weight_codes", "conditional_p"
PATCH_FILES = ("patch_of_row", "patch_counts")
CROSS_SHARD_FILES = ("cross_indptr", "cross_patches", "cross_weights")
# The same edges by row instead of by patch, for joint layouts: number of the other row through all shards, code of the
# weight.
CROSS_ROW_FILES = ("cross_row_indptr", "cross_rows", "cross_row_codes")
# Directed edges into other shards, sorted by the target shard: row, row of the target, p(target|row), and where the
# edges into each shard begin.
OUTGOING_FILES = ("out_from", "out_to", "out_weights", "out_edges")


def graph_file(shard: int, name: str) -> str:
    """Return the name of an artifact of a shard's graph."""
    return f"graph/{shard:04d}.{name}.npy"
