// Forces along the edges of the graph, and the step of every point.
//
// Eight lanes share a row: launch with 8 items per row. Edges are as in device_edges.py: row i has the edges ptr[i] to
// ptr[i + 1], and edge e the weight weights[codes[e]], or weights[e] if codes is null. A lane reads four edges at once,
// from a multiple of four on, and leaves out those of other rows: arrays of edges have a multiple of four of them.

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

// Four edges; the weight is 0 of those that are not of the row.
struct Quad {
    int target[4];
    float weight[4];
};

// Edges are read once per epoch: they should not evict positions, which are read many times, from the cache.
__device__ inline Quad load_quad(const int* targets, const float* weights, const unsigned char* codes, long quad,
                                 long begin, long end) {
    const int4 four = __ldcs(reinterpret_cast<const int4*>(targets) + quad);
    Quad edges = {{four.x, four.y, four.z, four.w}, {}};
    if (codes != nullptr) {
        const unsigned packed = __ldcs(reinterpret_cast<const unsigned*>(codes) + quad);
#pragma unroll
        for (int e = 0; e < 4; ++e) edges.weight[e] = __ldg(weights + (packed >> (8 * e) & 0xffu));
    } else {
        const float4 values = __ldcs(reinterpret_cast<const float4*>(weights) + quad);
        edges.weight[0] = values.x;
        edges.weight[1] = values.y;
        edges.weight[2] = values.z;
        edges.weight[3] = values.w;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {
        if (4 * quad + e < begin || 4 * quad + e >= end) edges.weight[e] = 0.0f;
    }
    return edges;
}

// The weight of one edge, whose code is a byte of a word.
__device__ inline float weight_of(const float* weights, const unsigned char* codes, long edge) {
    if (codes == nullptr) return weights[edge];
    const unsigned packed = reinterpret_cast<const unsigned*>(codes)[edge / 4];
    return weights[packed >> (8 * (edge % 4)) & 0xffu];
}

// The end of the quads of edges that end at `end`; none of a row without edges.
__device__ inline long quads_end(long begin, long end) { return begin < end ? (end + 3) / 4 : 0; }

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

// Add the attraction of this lane's edges of row i. A null far_ptr means no edges to patches of other shards.
__device__ inline void add_attraction(const float* __restrict__ points, const float* y, long i, int lane,
                                      const long* __restrict__ ptr, const int* __restrict__ targets,
                                      const float* __restrict__ weights, const unsigned char* __restrict__ codes,
                                      const long* __restrict__ far_ptr, const int* __restrict__ far_targets,
                                      const float* __restrict__ far_weights, const float* __restrict__ moments,
                                      float* pull) {
    const long begin = ptr[i], end = ptr[i + 1], stop = quads_end(begin, end);
#pragma unroll 1
    for (long k = begin / 4 + lane; k < stop; k += LANES) {
        const Quad quad = load_quad(targets, weights, codes, k, begin, end);
        float others[4][DIM];
        for (int e = 0; e < 4; ++e) load_point(points, quad.target[e], others[e]);
        for (int e = 0; e < 4; ++e) add_pull(y, others[e], 0.0f, quad.weight[e], pull);
    }
    if (far_ptr == nullptr) return;
    const long far_begin = far_ptr[i], far_end = far_ptr[i + 1], far_stop = quads_end(far_begin, far_end);
    for (long k = far_begin / 4 + lane; k < far_stop; k += LANES) {
        const Quad quad = load_quad(far_targets, far_weights, nullptr, k, far_begin, far_end);
        for (int e = 0; e < 4; ++e) {
            const float* patch = moments + static_cast<long>(quad.target[e]) * (DIM + 1);
            add_pull(y, patch, patch[DIM], quad.weight[e], pull);
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
    const float* __restrict__ potential, const long* __restrict__ ptr, const int* __restrict__ targets,
    const float* __restrict__ weights, const unsigned char* __restrict__ codes, const long* __restrict__ far_ptr,
    const int* __restrict__ far_targets, const float* __restrict__ far_weights, const float* __restrict__ moments,
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
            add_attraction(points, y, i, lane, ptr, targets, weights, codes, far_ptr, far_targets, far_weights,
                           moments, force);
            for (int a = 0; a < DIM; ++a) force[a] = repel * read.repulsion[a] - attract * force[a];
        }
        for (int a = 0; a < DIM; ++a) force[a] = sum_over_lanes(force[a]);
        if (i < n && lane == 0) update(y, force, velocity, i, numbers, moved, velocity_out);
    }
}

// The same with R (n, DIM) given: for repulsion by means, few points, or one normalizer per point. In the last case
// `weights` are those that point_coefficients wrote and z is null: factor * n_total is the factor on R. n_items = 8 n.
extern "C" __global__ void __launch_bounds__(256, 2) move(
    const float* __restrict__ points, const float* velocity, long n, const float* __restrict__ repulsion,
    const long* __restrict__ ptr, const int* __restrict__ targets, const float* __restrict__ weights,
    const unsigned char* __restrict__ codes, const long* __restrict__ far_ptr, const int* __restrict__ far_targets,
    const float* __restrict__ far_weights, const float* __restrict__ moments, const Numbers* __restrict__ numbers,
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
            add_attraction(points, y, i, lane, ptr, targets, weights, codes, far_ptr, far_targets, far_weights,
                           moments, force);
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
    const int* __restrict__ targets, const float* __restrict__ weights, const unsigned char* __restrict__ codes,
    const long* __restrict__ far_ptr, const int* __restrict__ far_targets, const float* __restrict__ far_weights,
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
            load_point(points, targets[k], other);
            total += 0.5 * weight_of(weights, codes, k) * log1p(squared_distance(y, other));
        }
        const long far_stop = far_ptr == nullptr ? 0 : far_ptr[i + 1];
        for (long k = far_ptr == nullptr ? 0 : far_ptr[i] + lane; k < far_stop; k += LANES) {
            const float* patch = moments + static_cast<long>(far_targets[k]) * (DIM + 1);
            total += 0.5 * far_weights[k] * log1p(patch[DIM] + squared_distance(y, patch));
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
// n_items = 8 n. weights: p(j|i) + p(i|j), and forward: p(j|i), of each edge; z (n,). Writes the new weights of the
// edges, the shares S (n,), and each block's part of the loss.
extern "C" __global__ void __launch_bounds__(256, 2) point_coefficients(
    const float* __restrict__ points, long n, const long* __restrict__ ptr, const int* __restrict__ targets,
    const float* __restrict__ weights, const float* __restrict__ forward, const float* __restrict__ z, double noise,
    float* new_weights, float* shares, double* partials) {
    const int lane = threadIdx.x % LANES;
    double loss = 0.0;
    for (long first = first_row_of_warp(); first < n; first += rows_of_grid()) {
        const long i = first + row_in_warp();
        double share = 0.0;
        if (i < n) {
            float y[DIM];
            load_point(points, i, y);
            const double own = normaliser(z, i, noise);
            const long begin = ptr[i], end = ptr[i + 1], stop = quads_end(begin, end);
            for (long k = begin / 4 + lane; k < stop; k += LANES) {
                const Quad quad = load_quad(targets, weights, nullptr, k, begin, end);
                const float4 four = __ldcs(reinterpret_cast<const float4*>(forward) + k);
                const float to[4] = {four.x, four.y, four.z, four.w};
                for (int e = 0; e < 4; ++e) {
                    if (4 * k + e < begin || 4 * k + e >= end) continue;
                    float other[DIM];
                    load_point(points, quad.target[e], other);
                    const double q = 1.0 / (1.0 + squared_distance(y, other));
                    const double theirs = normaliser(z, quad.target[e], noise);
                    const float from = quad.weight[e] - to[e];
                    const double part = to[e] / (q + own);
                    new_weights[4 * k + e] = static_cast<float>(part * own + from * theirs / (q + theirs));
                    share += part;
                    loss += to[e] * log((q + own) / q);
                }
            }
        }
        share = sum_over_lanes(share);
        if (i < n && lane == 0) shares[i] = static_cast<float>(share);
    }
    loss = block_sum(loss);
    if (threadIdx.x == 0) partials[blockIdx.x] = loss;
}
