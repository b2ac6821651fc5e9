"""The stages in order, and the run through them: setup, collection, diagnostics, status."""
