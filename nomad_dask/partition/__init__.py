"""Partition rows into cells and shards: sample, clustering, shard assignment, and the shuffle into shard files."""
