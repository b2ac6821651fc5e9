"""The nearest neighbors of a shard's rows, also across shards, and the neighbor graph."""
