"""The workspace on disk: atomically written artifacts, a manifest, locks and temporary directories."""
