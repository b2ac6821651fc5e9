"""The backend for NVIDIA GPUs: RAPIDS for vectors, our own kernels (`kernels/*.cu`) for the map."""
