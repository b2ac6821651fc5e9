// Transfer between points and mesh with cubic B-splines: charges to the mesh, potential and force from it.
#include "common.cuh"

// Four lanes share a point in `deposit`: a line of its stencil has four nodes, and each lane adds to one of them.
constexpr int LANES = 4;

// Adds each point's charge to its stencil in fixed point: the sum of integers does not depend on the order. One node
// near the point receives the rounding error, so that exactly round(weight * scale) is added per point.
//
// n_items = 4 n. The four atomic additions to a line are one instruction, and go to one sector of 32 bytes or to two:
// on average 7 sectors a point are read, added to and written in two dimensions, and 28 in three, mostly in the L2 cache.
extern "C" __global__ void deposit(const float* points, const float* weights, long n, const Frame* frame,
                                   unsigned long long* mesh) {
    const int lane = threadIdx.x % LANES;
    for (long i = grid_first() / LANES; i < n; i += grid_stride() / LANES) {
        float point[DIM];
        load_point(points, i, point);
        float value[DIM][4];
        long base = lane;
        for (int a = 0; a < DIM; ++a) {
            float t;
            base += stencil_start(frame, a, point[a], &t) * frame->stride[a];
            spline_values(t, value[a]);
        }
        const float charge = (weights ? __ldg(weights + i) : 1.0f) * frame->scale;
        const float mine = pick(value[DIM - 1], lane);
        long long added = 0;
        // Line 1 (1, 1 in three dimensions) is last: its second node, where the spline is at least 1/6 along
        // each axis, receives the remainder.
#pragma unroll
        for (int turn = 0; turn < STENCIL_LINES; ++turn) {
            constexpr int LAST = DIM == 2 ? 1 : 5;
            const int line = turn == STENCIL_LINES - 1 ? LAST : (turn >= LAST ? turn + 1 : turn);
#if DIM == 2
            unsigned long long* at = mesh + base + line * frame->stride[0];
            const float across = charge * value[0][line];
#else
            unsigned long long* at =
                mesh + base + (line >> 2) * frame->stride[0] + (line & 3) * frame->stride[1];
            const float across = charge * (value[0][line >> 2] * value[1][line & 3]);
#endif
            long long part = __float2ll_rn(across * mine);
            added += part;
            if (turn == STENCIL_LINES - 1) {
                const long long left = __float2ll_rn(charge) - group_sum<LANES>(added);
                if (lane == 1) part += left;
            }
            atomicAdd(at, static_cast<unsigned long long>(part));
        }
    }
}

// Index in the padded mesh of a node of the mesh.
__device__ static inline long padded_place(const Frame* frame, long node) {
    long place = 0;
    for (int a = 0; a < DIM - 1; ++a) {
        const long along = node / frame->stride[a];
        node -= along * frame->stride[a];
        place += along * frame->padded_stride[a];
    }
    return place + node * frame->padded_stride[DIM - 1];
}

extern "C" __global__ void charges(const unsigned long long* own, const unsigned long long* remote, long n_nodes,
                                   const Frame* frame, float* padded) {
    for (long i = grid_first(); i < n_nodes; i += grid_stride()) {
        const long long fixed = static_cast<long long>(own[i] + (remote ? remote[i] : 0ull));
        padded[padded_place(frame, i)] = static_cast<float>(fixed) * frame->inverse_scale;
    }
}

extern "C" __global__ void multiply(float2* spectrum, const float* transform, long n) {
    for (long i = grid_first(); i < n; i += grid_stride()) {
        const float factor = transform[i];
        const float2 value = spectrum[i];
        spectrum[i] = make_float2(value.x * factor, value.y * factor);
    }
}

// Sum of own charges times potential. Because the same splines are used in both directions, it equals the sum of
// w_i U(y_i) over the own points, without reading U at the points.
extern "C" __global__ void mesh_z(const unsigned long long* own, long n_nodes, const Frame* frame,
                                  const float* potential, double* partials) {
    double sum = 0;
    for (long i = grid_first(); i < n_nodes; i += grid_stride()) {
        const long long fixed = static_cast<long long>(own[i]);
        if (fixed != 0) sum += static_cast<double>(fixed) * potential[padded_place(frame, i)];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum * frame->inverse_scale;
}

extern "C" __global__ void sum_rows(const float* values, long n, double* partials) {
    double sum = 0;
    for (long i = grid_first(); i < n; i += grid_stride()) sum += values[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// Computed by a single block; other blocks of the grid return.
extern "C" __global__ void total(const double* partials, long n_partials, double offset, double* out) {
    if (blockIdx.x != 0) return;
    double sum = 0;
    for (long i = threadIdx.x; i < n_partials; i += blockDim.x) sum += partials[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = fmax(sum + offset, 1e-9);
}

extern "C" __global__ void read_field(const float* points, long n, const Frame* frame,
                                      const float* mesh_potential, float* potential, float* repulsion) {
    for (long i = grid_first(); i < n; i += grid_stride()) {
        float point[DIM];
        load_point(points, i, point);
        const Reading reading = read_lines<1>(frame, mesh_potential, point, 0);
        potential[i] = reading.potential;
        store_point(repulsion, i, reading.repulsion);
    }
}

// U and R of few points by a direct sum over all charges, in tiles of one block in shared memory.
extern "C" __global__ void direct(const float* points, long n, const float* charges, const float* weights, long m,
                                  float* potential, float* repulsion) {
    __shared__ float tile[THREADS][DIM + 1];
    // All threads of a block do the same number of iterations, because all must reach the barriers.
    for (long base = static_cast<long>(blockIdx.x) * blockDim.x; base < n; base += grid_stride()) {
        const long i = base + threadIdx.x;
        float point[DIM] = {};
        float push[DIM] = {};
        float sum = 0;
        if (i < n) load_point(points, i, point);
        for (long from = 0; from < m; from += THREADS) {
            const long mine = from + threadIdx.x;
            __syncthreads();
            if (mine < m) {
                for (int a = 0; a < DIM; ++a) tile[threadIdx.x][a] = charges[mine * DIM + a];
                tile[threadIdx.x][DIM] = weights ? weights[mine] : 1.0f;
            }
            __syncthreads();
            const int held = static_cast<int>(m - from < THREADS ? m - from : THREADS);
            for (int c = 0; c < held; ++c) {
                float apart[DIM];
                float squared = 0;
                for (int a = 0; a < DIM; ++a) {
                    apart[a] = point[a] - tile[c][a];
                    squared += apart[a] * apart[a];
                }
                const float q = 1.0f / (1.0f + squared);
                const float share = tile[c][DIM] * q;
                sum += share;
                for (int a = 0; a < DIM; ++a) push[a] += share * q * apart[a];
            }
        }
        if (i < n) {
            potential[i] = sum;
            store_point(repulsion, i, push);
        }
    }
}

// Copies rows 0, step, 2 step, .. to `sample`, and writes the bounding box of each block's points: low, high corner.
extern "C" __global__ void watch(const float* points, long n, long step, float* sample, float* box_partials) {
    float low[DIM];
    float high[DIM];
    for (int a = 0; a < DIM; ++a) {
        low[a] = infinity();  // a block may have no points
        high[a] = -low[a];
    }
    for (long i = grid_first(); i < n; i += grid_stride()) {
        float point[DIM];
        load_point(points, i, point);
        for (int a = 0; a < DIM; ++a) {
            low[a] = fminf(low[a], point[a]);
            high[a] = fmaxf(high[a], point[a]);
        }
        if (i % step == 0) store_point(sample, i / step, point);
    }
    block_box(low, high);
    if (threadIdx.x == 0) {
        for (int a = 0; a < DIM; ++a) {
            box_partials[static_cast<long>(blockIdx.x) * 2 * DIM + a] = low[a];
            box_partials[static_cast<long>(blockIdx.x) * 2 * DIM + DIM + a] = high[a];
        }
    }
}
