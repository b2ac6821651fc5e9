"""The backend for NVIDIA GPUs: CuPy, kernels of our own (`kernels/*.cu`), and RAPIDS where it is installed."""
