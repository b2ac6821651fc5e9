"""The layout: schedule, initial positions, the state of a shard on its worker, and the loop over epochs."""
