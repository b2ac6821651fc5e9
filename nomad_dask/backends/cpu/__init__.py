"""The CPU backend: Numba, NumPy and SciPy."""
