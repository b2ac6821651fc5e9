"""Small helpers that any package may use: array types, memory, formatting."""
