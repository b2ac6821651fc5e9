"""The layout: one shard, one epoch, and the loop over all of them."""
