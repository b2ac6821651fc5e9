"""Looking at a map."""
