"""Nearest neighbours within a shard, and the graph made of them."""
