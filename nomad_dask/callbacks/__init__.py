"""What a run reports while it runs: typed events, progress bars, the live map."""
