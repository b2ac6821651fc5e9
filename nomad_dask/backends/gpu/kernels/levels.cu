// Between a mesh and one of four times the spacing: charges to it, and the potential back. Both are exact, because
// cubic B-splines are nested: a coarse spline is a sum of thirteen fine ones. See kernel_parts.py.
#include "common.cuh"

constexpr int RATIO = 4;
constexpr int TAPS = 13;    // fine splines of a coarse one
constexpr int BEFORE = 12;  // the first of those of coarse node c is 4 c - 12
constexpr int REACHING = 4; // coarse splines that reach a fine node, from node / 4 on; the last may have weight 0

// Nodes of both meshes along each axis, strides of both in arrays that may be padded, and the fine coefficients of a
// coarse spline. In device memory, as all that a captured graph reads.
struct Levels {
    long fine_shape[3];
    long coarse_shape[3];
    long fine_stride[3];
    long coarse_stride[3];
    float weights[TAPS];
};
static_assert(sizeof(Levels) == 152, "as numpy's aligned dtype has it");

// The indices of a node along each axis of a mesh.
__device__ inline void node_indices(long node, const long* shape, long* index) {
    for (int a = DIM - 1; a > 0; --a) {
        const long rest = node / shape[a];
        index[a] = node - rest * shape[a];
        node = rest;
    }
    index[0] = node;
}

// Weighted sum of the fine nodes first to first + TAPS of one line, of those that exist.
__device__ inline float sum_of_line(const float* line, long first, long n, const float* weights) {
    float sum = 0;
#pragma unroll
    for (int t = 0; t < TAPS; ++t) {
        const long at = first + t;
        if (at >= 0 && at < n) sum += __ldg(weights + t) * __ldg(line + at);
    }
    return sum;
}

// The charges of a mesh on a coarser one: each coarse node is the weighted sum of 13 fine ones along each axis.
//
// Bytes of a fine node: 4 read, and 4 / 4^DIM written. A fine node is read for (13 / 4)^DIM coarse ones, near each other.
extern "C" __global__ void restrict_charges(const float* fine, const Levels* levels, long n_coarse, float* coarse) {
    for (long i = grid_first(); i < n_coarse; i += grid_stride()) {
        long index[DIM];
        node_indices(i, levels->coarse_shape, index);
        long to = 0;
        for (int a = 0; a < DIM; ++a) {
            to += index[a] * levels->coarse_stride[a];
            index[a] = index[a] * RATIO - BEFORE;
        }
        const long n_along = levels->fine_shape[DIM - 1];
        float sum = 0;
        for (int t = 0; t < TAPS; ++t) {
            const long at = index[0] + t;
            if (at < 0 || at >= levels->fine_shape[0]) continue;
            const float* plane = fine + at * levels->fine_stride[0];
#if DIM == 2
            const float along = sum_of_line(plane, index[1], n_along, levels->weights);
#else
            float along = 0;
            for (int u = 0; u < TAPS; ++u) {
                const long row = index[1] + u;
                if (row < 0 || row >= levels->fine_shape[1]) continue;
                along += __ldg(levels->weights + u) *
                         sum_of_line(plane + row * levels->fine_stride[1], index[2], n_along, levels->weights);
            }
#endif
            sum += __ldg(levels->weights + t) * along;
        }
        coarse[to] = sum;
    }
}

// Weights of the coarse nodes of one line that reach a fine node.
__device__ inline void reaching_weights(const Levels* levels, int phase, float* weight) {
    for (int j = 0; j < REACHING; ++j) {
        const int tap = TAPS - 1 - RATIO * j + phase;
        weight[j] = tap < TAPS ? __ldg(levels->weights + tap) : 0.0f;
    }
}

// Adds the potential of a coarser mesh to that of a mesh: the transpose of restrict_charges.
//
// Bytes of a fine node: 4 read, 4 written, and 4 / 4^DIM read. A coarse node is read for 13^DIM fine ones.
extern "C" __global__ void add_coarse(const float* coarse, const Levels* levels, long n_fine, float* fine) {
    for (long i = grid_first(); i < n_fine; i += grid_stride()) {
        long index[DIM];
        node_indices(i, levels->fine_shape, index);
        long to = 0, from = 0;
        float weight[DIM][REACHING];
        for (int a = 0; a < DIM; ++a) {
            to += index[a] * levels->fine_stride[a];
            from += index[a] / RATIO * levels->coarse_stride[a];
            reaching_weights(levels, static_cast<int>(index[a] % RATIO), weight[a]);
        }
        float sum = 0;
#pragma unroll
        for (int j = 0; j < REACHING; ++j) {
            const float* plane = coarse + from + j * levels->coarse_stride[0];
#if DIM == 2
            float along = 0;
#pragma unroll
            for (int k = 0; k < REACHING; ++k) along += weight[1][k] * __ldg(plane + k);
#else
            float along = 0;
#pragma unroll
            for (int k = 0; k < REACHING; ++k) {
                const float* line = plane + k * levels->coarse_stride[1];
                float part = 0;
#pragma unroll
                for (int l = 0; l < REACHING; ++l) part += weight[2][l] * __ldg(line + l);
                along += weight[1][k] * part;
            }
#endif
            sum += weight[0][j] * along;
        }
        fine[to] += sum;
    }
}
