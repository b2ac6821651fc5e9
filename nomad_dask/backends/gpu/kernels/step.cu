// Forces along the edges of the graph, and the step of every point.
//
// Eight lanes share a row: launch with 8 items per row. Edges are packed as in packed_csr.py: {row, bits of the
// weight}, an even number per row, so that a lane reads two of them at once (16 bytes); `ptr` (n+1) counts single
// edges. Padding is an edge of weight 0.

#include "common.cuh"

constexpr int LANES = 8;

// Each warp processes four rows at a time, so that all its lanes leave a loop over rows together. The mask of shuffles
// is then known at compile time, which avoids a check at run time.
__device__ inline long first_row_of_warp() { return grid_first() / 32 * (32 / LANES); }
__device__ inline long row_in_warp() { return threadIdx.x % 32 / LANES; }
__device__ inline long rows_of_grid() { return grid_stride() / LANES; }

template <class T>
__device__ inline T sum_over_lanes(T value) {
    for (int apart = LANES / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
    return value;
}

// Two edges, read once per epoch: they should not evict positions, which are read many times, from the cache.
struct EdgePair {
    unsigned target[2];
    float weight[2];
};

__device__ inline EdgePair load_pair(const uint2* edges, long pair) {
    const uint4 words = __ldcs(reinterpret_cast<const uint4*>(edges) + pair);
    return {{words.x, words.z}, {__uint_as_float(words.y), __uint_as_float(words.w)}};
}

// pull += w q (y - other), with 1/q = 1 + |y - other|^2 + spread
__device__ inline void add_pull(const float* y, const float* other, float spread, float weight, float* pull) {
    float apart[DIM];
    float squared = spread;
    for (int a = 0; a < DIM; ++a) {
        apart[a] = y[a] - other[a];
        squared += apart[a] * apart[a];
    }
    const float force = __fdividef(weight, 1.0f + squared);
    for (int a = 0; a < DIM; ++a) pull[a] += force * apart[a];
}

// Add the attraction of this lane's edges of row i.
__device__ inline void add_attraction(const float* __restrict__ points, const float* y, long i, int lane,
                                      const long* __restrict__ ptr, const uint2* __restrict__ edges,
                                      const long* __restrict__ far_ptr, const uint2* __restrict__ far_edges,
                                      const float* __restrict__ moments, float* pull) {
    // Two pairs are loaded at a time: few rows have more than 32 edges.
    const EdgePair none = {{static_cast<unsigned>(i), static_cast<unsigned>(i)}, {0.0f, 0.0f}};
    const long stop = ptr[i + 1] / 2;
#pragma unroll 1
    for (long k = ptr[i] / 2 + lane; k < stop; k += 2 * LANES) {
        const EdgePair now = load_pair(edges, k);
        const EdgePair then = k + LANES < stop ? load_pair(edges, k + LANES) : none;
        float others[4][DIM];
        for (int e = 0; e < 2; ++e) {
            load_point(points, now.target[e], others[e]);
            load_point(points, then.target[e], others[2 + e]);
        }
        for (int e = 0; e < 2; ++e) {
            add_pull(y, others[e], 0.0f, now.weight[e], pull);
            add_pull(y, others[2 + e], 0.0f, then.weight[e], pull);
        }
    }
    const long far_stop = far_ptr[i + 1] / 2;
    for (long k = far_ptr[i] / 2 + lane; k < far_stop; k += LANES) {
        const EdgePair pair = load_pair(far_edges, k);
        for (int e = 0; e < 2; ++e) {
            const float* patch = moments + static_cast<long>(pair.target[e]) * (DIM + 1);
            add_pull(y, patch, patch[DIM], pair.weight[e], pull);
        }
    }
}

// Factor on R. A null z means one normalizer per point, which is already part of R; there is no sum over all points.
__device__ inline float factor_on_repulsion(const Numbers* numbers, const double* z) {
    return z == nullptr ? static_cast<float>(numbers->factor * numbers->n_total) : repel_factor(*numbers, *z);
}

// v = momentum v + rate 2 force, clipped to max_step_norm; y + v goes to `moved`, so all rows see the old positions.
__device__ inline void update(const float* y, const float* force, const float* velocity, long i,
                              const Numbers* numbers, float* moved, float* velocity_out) {
    const float momentum = numbers->momentum, rate = 2.0f * numbers->rate, longest = numbers->max_step_norm;
    float v[DIM], to[DIM];
    float squared = 0.0f;
    for (int a = 0; a < DIM; ++a) {
        v[a] = momentum * velocity[i * DIM + a] + rate * force[a];
        squared += v[a] * v[a];
    }
    const float held = squared > longest * longest ? longest / sqrtf(squared) : 1.0f;
    for (int a = 0; a < DIM; ++a) {
        v[a] *= held;
        to[a] = y[a] + v[a];
    }
    store_point(velocity_out, i, v);
    store_point(moved, i, to);
}

// The step of one epoch with one normalizer, fused: R from the mesh, attraction along the edges, then the update.
// n_items = 8 n. points, velocity, moved, velocity_out (n, DIM): `moved` must not be `points`, `velocity_out` may be
// `velocity`. potential: on the padded mesh. moments (patches, DIM+1): means and variances. z: the shard's part of Z.
extern "C" __global__ void __launch_bounds__(256, 2) step(
    const float* __restrict__ points, const float* velocity, long n, const Frame* __restrict__ frame,
    const float* __restrict__ potential, const long* __restrict__ ptr, const uint2* __restrict__ edges,
    const long* __restrict__ far_ptr, const uint2* __restrict__ far_edges, const float* __restrict__ moments,
    const Numbers* __restrict__ numbers, const double* __restrict__ z, float* moved, float* velocity_out) {
    const int lane = threadIdx.x % LANES;
    const float repel = factor_on_repulsion(numbers, z);
    const float attract = numbers->attract;
    for (long first = first_row_of_warp(); first < n; first += rows_of_grid()) {
        const long i = first + row_in_warp();
        float y[DIM], force[DIM];
        for (int a = 0; a < DIM; ++a) force[a] = 0.0f;
        if (i < n) {
            load_point(points, i, y);
            const Reading read = read_lines<LANES>(frame, potential, y, lane);
            add_attraction(points, y, i, lane, ptr, edges, far_ptr, far_edges, moments, force);
            for (int a = 0; a < DIM; ++a) force[a] = repel * read.repulsion[a] - attract * force[a];
        }
        for (int a = 0; a < DIM; ++a) force[a] = sum_over_lanes(force[a]);
        if (i < n && lane == 0) update(y, force, velocity, i, numbers, moved, velocity_out);
    }
}

// The same with R (n, DIM) given: for repulsion by means, few points, or one normalizer per point. In the last case
// `edges` are those that point_coefficients wrote and z is null: factor * n_total is the factor on R. n_items = 8 n.
extern "C" __global__ void __launch_bounds__(256, 2) move(
    const float* __restrict__ points, const float* velocity, long n, const float* __restrict__ repulsion,
    const long* __restrict__ ptr, const uint2* __restrict__ edges, const long* __restrict__ far_ptr,
    const uint2* __restrict__ far_edges, const float* __restrict__ moments, const Numbers* __restrict__ numbers,
    const double* __restrict__ z, float* moved, float* velocity_out) {
    const int lane = threadIdx.x % LANES;
    const float repel = factor_on_repulsion(numbers, z);
    const float attract = numbers->attract;
    for (long first = first_row_of_warp(); first < n; first += rows_of_grid()) {
        const long i = first + row_in_warp();
        float y[DIM], force[DIM];
        for (int a = 0; a < DIM; ++a) force[a] = 0.0f;
        if (i < n) {
            load_point(points, i, y);
            add_attraction(points, y, i, lane, ptr, edges, far_ptr, far_edges, moments, force);
        }
        for (int a = 0; a < DIM; ++a) force[a] = sum_over_lanes(force[a]);
        if (i < n && lane == 0) {
            for (int a = 0; a < DIM; ++a) force[a] = repel * repulsion[i * DIM + a] - attract * force[a];
            update(y, force, velocity, i, numbers, moved, velocity_out);
        }
    }
}

__device__ inline double squared_distance(const float* y, const float* other) {
    double squared = 0.0;
    for (int a = 0; a < DIM; ++a) {
        const double apart = y[a] - other[a];
        squared += apart * apart;
    }
    return squared;
}

// partials[block] = its part of 1/2 sum a log(1 + d^2) over the edges of rows 0, stride, 2 stride, .. (for patches of
// other shards d^2 + variance). n_items = 8 ceil(n / stride).
extern "C" __global__ void __launch_bounds__(256, 2) attraction_loss(
    const float* __restrict__ points, long n, long stride, const long* __restrict__ ptr,
    const uint2* __restrict__ edges, const long* __restrict__ far_ptr, const uint2* __restrict__ far_edges,
    const float* __restrict__ moments, double* partials) {
    const int lane = threadIdx.x % LANES;
    const long rows = (n + stride - 1) / stride;
    double total = 0.0;
    for (long row = grid_first() / LANES; row < rows; row += rows_of_grid()) {
        const long i = row * stride;
        float y[DIM];
        load_point(points, i, y);
        for (long k = ptr[i] + lane; k < ptr[i + 1]; k += LANES) {
            float other[DIM];
            load_point(points, edges[k].x, other);
            total += 0.5 * __uint_as_float(edges[k].y) * log1p(squared_distance(y, other));
        }
        for (long k = far_ptr[i] + lane; k < far_ptr[i + 1]; k += LANES) {
            const float* patch = moments + static_cast<long>(far_edges[k].x) * (DIM + 1);
            total += 0.5 * __uint_as_float(far_edges[k].y) * log1p(patch[DIM] + squared_distance(y, patch));
        }
    }
    total = block_sum(total);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

__device__ inline double normaliser(const float* z, long i, double noise) {
    return static_cast<double>(fmaxf(__ldg(z + i), 1e-12f)) * noise;
}

// One normalizer per point: with L = -sum p log[q / (q + Z_i)], the weight of an edge is
// p(j|i) Z_i / (q + Z_i) + p(i|j) Z_j / (q + Z_j), and the gradient of Z_i is weighted by
// S_i = sum_j p(j|i) / (q_ij + Z_i), where Z_i = max(z_i, 1e-12) noise.
// n_items = 8 n. forward: p(j|i) in the order of `edges`; z (n,). Writes the edges with their new weights (not in
// place), the shares S (n,), and each block's part of the loss.
extern "C" __global__ void __launch_bounds__(256, 2) point_coefficients(
    const float* __restrict__ points, long n, const long* __restrict__ ptr, const uint2* __restrict__ edges,
    const float* __restrict__ forward, const float* __restrict__ z, double noise, uint2* weighted_edges,
    float* shares, double* partials) {
    const int lane = threadIdx.x % LANES;
    double loss = 0.0;
    for (long first = first_row_of_warp(); first < n; first += rows_of_grid()) {
        const long i = first + row_in_warp();
        double share = 0.0;
        if (i < n) {
            float y[DIM];
            load_point(points, i, y);
            const double own = normaliser(z, i, noise);
            const long stop = ptr[i + 1] / 2;
            for (long k = ptr[i] / 2 + lane; k < stop; k += LANES) {
                const EdgePair pair = load_pair(edges, k);
                const float2 both = __ldcs(reinterpret_cast<const float2*>(forward) + k);
                const float to[2] = {both.x, both.y};
                unsigned weighted[2];
                for (int e = 0; e < 2; ++e) {
                    float other[DIM];
                    load_point(points, pair.target[e], other);
                    const double q = 1.0 / (1.0 + squared_distance(y, other));
                    const double theirs = normaliser(z, pair.target[e], noise);
                    const float from = pair.weight[e] - to[e];
                    const double part = to[e] / (q + own);
                    weighted[e] = __float_as_uint(static_cast<float>(part * own + from * theirs / (q + theirs)));
                    share += part;
                    loss += to[e] * log((q + own) / q);
                }
                reinterpret_cast<uint4*>(weighted_edges)[k] =
                    make_uint4(pair.target[0], weighted[0], pair.target[1], weighted[1]);
            }
        }
        share = sum_over_lanes(share);
        if (i < n && lane == 0) shares[i] = static_cast<float>(share);
    }
    loss = block_sum(loss);
    if (threadIdx.x == 0) partials[blockIdx.x] = loss;
}
