"""Matrix products in half precision with cuBLAS."""

from __future__ import annotations

from typing import Any

import numpy as np


def multiply_half(queries: Any, targets: Any, products: Any, jobs: np.ndarray) -> None:
    """Multiply blocks of rows of two CuPy arrays in half precision, accumulating in float32.

    Implements `Runtime.multiply_half` for a CUDA device.

    Parameters
    ----------
    queries, targets : array of uint16 (m, pitch), (n, pitch)
        The bits of half-precision numbers.
    products : array of float32
        Receives all products.
    jobs : ndarray of int64 (n_jobs, 6)
        First query and number of queries, first target and number of targets, offset in `products` of the first
        product, and offset between the products of successive queries.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas

    pitch = queries.shape[1]
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    handle = cupy.cuda.device.get_cublas_handle()
    a, b, c = queries.data.ptr, targets.data.ptr, products.data.ptr
    half, single = cupy.cuda.runtime.CUDA_R_16F, cupy.cuda.runtime.CUDA_R_32F
    # cuBLAS is column-major: it computes targets × queries, in which each query is a column.
    for first_query, n_queries, first_target, n_targets, offset, stride in jobs.tolist():
        cublas.gemmEx(
            handle, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, n_targets, n_queries, pitch, one.ctypes.data,
            b + 2 * first_target * pitch, half, pitch, a + 2 * first_query * pitch, half, pitch, zero.ctypes.data,
            c + 4 * offset, single, stride, cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
