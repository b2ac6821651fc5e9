// The repulsion of the paper: cell means, and samples from the row's own cell and the nearest cells.
//
// repel_by_means(points (n, DIM), n, cell_offsets (cells+1), cell_of_row (n), moments (patches, DIM+1),
//                counts (patches), n_means, first_patch, targets (cells, n_exact), n_exact, sources, source_slots,
//                source_ptr (cells+1), n_negatives, seed, epoch, shares (n), z (n), repulsion (n, DIM))
//
// Writes Z_i and R_i; n_items = n. Rows are sorted by cell. moments: the mean of each patch of all shards, and a
// variance that is not used; counts: number of rows of each patch. The shard's cells are the patches from first_patch
// on. targets: cells of the shard that are sampled instead of using their means, the row's own cell first, -1 for
// none. sources, source_slots, source_ptr: the inverse of targets as CSR: for each cell, the cells that sample it and
// the slot in which they do. shares null: all 1; z null: not written.
//
// Sampling pairs row a of a cell with row (a + o) mod n_t of the target cell, with a new random o for every pair of
// cells, draw and epoch. Each row can compute which rows sampled it, so the forces on samples are gathered, not
// scattered, and sums have a fixed order. The draws are the same as on the CPU.

#include "common.cuh"

constexpr int TILE = THREADS;

// Return a number in [low, size) that is a hash of the other arguments (splitmix64).
__device__ inline unsigned draw_offset(unsigned long long seed, long epoch, long cell, long slot, long draw,
                                       unsigned low, unsigned size) {
    const unsigned long long h = mixed(mixed(mixed(mixed(seed, epoch), cell), slot), draw);
    return low + static_cast<unsigned>(h % (size - low));
}

// Bit mask of the 32 means from first_mean on: 1 for those that are sampled instead.
__device__ inline unsigned sampled_among(const long* __restrict__ targets, long n_exact, long first_patch,
                                         long first_mean) {
    unsigned sampled = 0;
    for (long slot = 0; slot < n_exact; ++slot) {
        const long at = first_patch + targets[slot] - first_mean;
        if (targets[slot] >= 0 && at >= 0 && at < 32) sampled |= 1u << at;
    }
    return sampled;
}

// Add w q^2 (y - other) to push; return w q. In double precision: weights of samples from large cells are large.
__device__ inline double add_sample(const float* y, const float* __restrict__ points, long m, double weight,
                                    double share, double* push) {
    float apart[DIM];
    load_point(points, m, apart);
    float squared = 0.0f;
    for (int a = 0; a < DIM; ++a) {
        apart[a] = y[a] - apart[a];
        squared += apart[a] * apart[a];
    }
    const float q = __fdividef(1.0f, 1.0f + squared);
    const double force = weight * share * (q * q);
    for (int a = 0; a < DIM; ++a) push[a] += force * apart[a];
    return weight * q;
}

// Four blocks per multiprocessor: by default the compiler uses so few registers that some spill.
extern "C" __global__ void __launch_bounds__(256, 4) repel_by_means(
    const float* __restrict__ points, long n, const long* __restrict__ cell_offsets,
    const int* __restrict__ cell_of_row, const float* __restrict__ moments, const float* __restrict__ counts,
    long n_means, long first_patch, const long* __restrict__ targets, long n_exact,
    const long* __restrict__ sources, const long* __restrict__ source_slots, const long* __restrict__ source_ptr,
    long n_negatives, unsigned long long seed, long epoch, const float* __restrict__ shares, float* z,
    float* repulsion) {
    __shared__ float4 tile[TILE];  // the mean, and its count in w
    const long n_slots = n_negatives > 0 ? n_exact : 0;
    for (long first = grid_first() - threadIdx.x; first < n; first += grid_stride()) {
        const long i = first + threadIdx.x;
        const bool mine = i < n;
        const long cell = mine ? cell_of_row[i] : 0;
        const long* own_targets = targets + cell * n_exact;
        float y[DIM], push_means[DIM];
        load_point(points, mine ? i : 0, y);
        for (int a = 0; a < DIM; ++a) push_means[a] = 0.0f;
        float total = 0.0f;
        for (long tile_start = 0; tile_start < n_means; tile_start += TILE) {
            __syncthreads();
            const long from = tile_start + threadIdx.x;
            const bool there = from < n_means;
            const float* mean = moments + (there ? from : 0) * (DIM + 1);
            tile[threadIdx.x] = make_float4(mean[0], mean[1], mean[DIM - 1], there ? counts[from] : 0.0f);
            __syncthreads();
            for (int part = 0; part < TILE && tile_start + part < n_means; part += 32) {
                const unsigned sampled = sampled_among(own_targets, n_slots, first_patch, tile_start + part);
                // Unrolled wholly, it takes so many registers that some spill.
#pragma unroll 8
                for (int k = 0; k < 32; ++k) {
                    const float4 mean = tile[part + k];
                    const float weight = sampled & 1u << k ? 0.0f : mean.w;
                    const float apart[3] = {y[0] - mean.x, y[1] - mean.y, y[DIM - 1] - mean.z};
                    float squared = 0.0f;
                    for (int a = 0; a < DIM; ++a) squared += apart[a] * apart[a];
                    const float q = __fdividef(1.0f, 1.0f + squared);
                    const float force = weight * q;
                    total += force;
                    for (int a = 0; a < DIM; ++a) push_means[a] += force * q * apart[a];
                }
            }
        }
        if (!mine) continue;
        const float share = shares == nullptr ? 1.0f : shares[i];
        double push[DIM];
        for (int a = 0; a < DIM; ++a) push[a] = push_means[a] * share;
        double drawn = total;
        const long start = cell_offsets[cell];
        const unsigned place = static_cast<unsigned>(i - start);
        const unsigned size = static_cast<unsigned>(cell_offsets[cell + 1] - start);
        for (long slot = 0; slot < n_slots; ++slot) {
            const long target = own_targets[slot];
            if (target < 0) continue;
            const unsigned own = target == cell;  // a row is not its own negative
            const long target_start = cell_offsets[target];
            const unsigned n_target = static_cast<unsigned>(cell_offsets[target + 1] - target_start);
            if (n_target <= own) continue;
            const double weight = static_cast<double>(n_target - own) / static_cast<double>(n_negatives);
            for (long draw = 0; draw < n_negatives; ++draw) {
                const unsigned o = draw_offset(seed, epoch, cell, slot, draw, own, n_target);
                drawn += add_sample(y, points, target_start + (place + o) % n_target, weight, share, push);
            }
        }
        // The reverse direction: rows that sampled this one.
        const long last_source = n_slots > 0 ? source_ptr[cell + 1] : 0;
        for (long s = n_slots > 0 ? source_ptr[cell] : 0; s < last_source; ++s) {
            const long source = sources[s];
            const unsigned own = source == cell;
            if (size <= own) continue;
            const long source_start = cell_offsets[source];
            const long n_source = cell_offsets[source + 1] - source_start;
            const double weight = static_cast<double>(size - own) / static_cast<double>(n_negatives);
            for (long draw = 0; draw < n_negatives; ++draw) {
                const unsigned o = draw_offset(seed, epoch, source, source_slots[s], draw, own, size);
                for (long at = place >= o ? place - o : place + (size - o); at < n_source; at += size) {
                    const long m = source_start + at;
                    add_sample(y, points, m, weight, shares == nullptr ? 1.0 : shares[m], push);
                }
            }
        }
        if (z != nullptr) z[i] = static_cast<float>(drawn);
        for (int a = 0; a < DIM; ++a) repulsion[i * DIM + a] = static_cast<float>(push[a]);
    }
}
