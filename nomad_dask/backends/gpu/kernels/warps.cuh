// Shared by the kernels in which a warp works on one row, and by those that keep lists of the nearest rows.
#include "common.cuh"

__device__ inline long first_warp() { return grid_first() / 32; }
__device__ inline long warp_stride() { return grid_stride() / 32; }
__device__ inline int lane_of() { return static_cast<int>(threadIdx.x % 32); }

// The order of lists: by value, equal ones by row.
__device__ inline bool before(float value, int row, float other_value, int other_row) {
    return value < other_value || (value == other_value && row < other_row);
}
