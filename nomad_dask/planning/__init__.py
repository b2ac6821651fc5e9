"""Sizes that are decided before anything runs: the plan and the resource model behind it."""
