"""From a sample to cells, from cells to shards, from blocks of rows to shard files."""
