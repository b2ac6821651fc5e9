"""The workspace on disk: artifacts written whole or not at all, one manifest, locks, temporary directories."""
