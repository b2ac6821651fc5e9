// K-Means of many groups of rows at once: each row is compared only with the centers of its own group.
//
// Sums are integers, and other reductions have a fixed order: results do not depend on the order of threads.
#include "common.cuh"

// ------------------------------------------------------------------------------------ nearest centers

// Rows of one group, at most TILE_ROWS, and the centers of this group.
struct Tile {
    long first_row;
    long n_rows;
    long first_center;
    long n_centers;
};

constexpr int TILE_ROWS = 128;
constexpr int TILE_CENTERS = 64;
constexpr int DEPTH = 16;            // values of a row or center that are in shared memory at a time
constexpr int ROWS_OF_THREAD = 8;    // a thread multiplies so many rows with
constexpr int CENTERS_OF_THREAD = 4; // so many centers
constexpr int ACROSS = TILE_CENTERS / CENTERS_OF_THREAD;
static_assert(ACROSS * (TILE_ROWS / ROWS_OF_THREAD) == THREADS, "each thread has its part of the products");

// Aligned for float4; more columns than needed, so that threads write to different banks.
struct alignas(16) Slab {
    float rows[DEPTH][TILE_ROWS + 4];
    float centers[DEPTH][TILE_CENTERS + 4];
};

// Load values j to j + DEPTH of the rows and centers of a tile, zeros beyond their ends.
__device__ inline void load_slab(Slab& slab, const Tile& tile, const float* rows, const int* picks,
                                 const float* centers, long first, int d, int j) {
    for (int at = threadIdx.x; at < TILE_ROWS * DEPTH; at += THREADS) {
        const int r = at / DEPTH, c = at % DEPTH;
        float value = 0.0f;
        if (r < tile.n_rows && j + c < d) {
            const long row = picks == nullptr ? tile.first_row + r : picks[tile.first_row + r];
            value = rows[row * d + j + c];
        }
        slab.rows[c][r] = value;
    }
    for (int at = threadIdx.x; at < TILE_CENTERS * DEPTH; at += THREADS) {
        const int r = at / DEPTH, c = at % DEPTH;
        const bool there = first + r < tile.n_centers && j + c < d;
        slab.centers[c][r] = there ? __ldg(centers + (tile.first_center + first + r) * d + j + c) : 0.0f;
    }
}

// The center of the smallest half_norms[c] - rows[i] . centers[c] among those of the row's group, the first of equal
// ones, and this value (not written if `values` is null). Row i is picks[i] (i if null). A block per tile.
extern "C" __global__ void nearest_center(const float* rows, const int* picks, int d, const Tile* tiles, long n_tiles,
                                          const float* centers, const float* half_norms, float* values, int* labels) {
    __shared__ Slab slab;
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    for (long t = blockIdx.x; t < n_tiles; t += gridDim.x) {
        const Tile tile = tiles[t];
        float least[ROWS_OF_THREAD];
        int nearest[ROWS_OF_THREAD];
        for (int r = 0; r < ROWS_OF_THREAD; ++r) {
            least[r] = infinity();
            nearest[r] = 0;
        }
        for (long first = 0; first < tile.n_centers; first += TILE_CENTERS) {
            float product[ROWS_OF_THREAD][CENTERS_OF_THREAD] = {};
            for (int j = 0; j < d; j += DEPTH) {
                __syncthreads();
                load_slab(slab, tile, rows, picks, centers, first, d, j);
                __syncthreads();
#pragma unroll
                for (int c = 0; c < DEPTH; ++c) {
                    const float* row = slab.rows[c] + down * ROWS_OF_THREAD;
                    const float4 low = *reinterpret_cast<const float4*>(row);
                    const float4 high = *reinterpret_cast<const float4*>(row + 4);
                    const float4 four =
                        *reinterpret_cast<const float4*>(slab.centers[c] + across * CENTERS_OF_THREAD);
                    const float x[ROWS_OF_THREAD] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
                    const float y[CENTERS_OF_THREAD] = {four.x, four.y, four.z, four.w};
#pragma unroll
                    for (int r = 0; r < ROWS_OF_THREAD; ++r) {
#pragma unroll
                        for (int u = 0; u < CENTERS_OF_THREAD; ++u) product[r][u] += x[r] * y[u];
                    }
                }
            }
#pragma unroll
            for (int u = 0; u < CENTERS_OF_THREAD; ++u) {
                const long center = first + across * CENTERS_OF_THREAD + u;
                if (center >= tile.n_centers) break;
                const float half_norm = __ldg(half_norms + tile.first_center + center);
#pragma unroll
                for (int r = 0; r < ROWS_OF_THREAD; ++r) {
                    const float value = half_norm - product[r][u];
                    if (value < least[r]) {
                        least[r] = value;
                        nearest[r] = static_cast<int>(center);
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS_OF_THREAD; ++r) {
            for (int apart = ACROSS / 2; apart > 0; apart /= 2) {
                const float other = __shfl_xor_sync(ALL_LANES, least[r], apart);
                const int other_nearest = __shfl_xor_sync(ALL_LANES, nearest[r], apart);
                if (other < least[r] || (other == least[r] && other_nearest < nearest[r])) {
                    least[r] = other;
                    nearest[r] = other_nearest;
                }
            }
            const long row = down * ROWS_OF_THREAD + r;
            if (across == 0 && row < tile.n_rows) {
                labels[tile.first_row + row] = static_cast<int>(tile.first_center) + nearest[r];
                if (values != nullptr) values[tile.first_row + row] = least[r];
            }
        }
    }
}

// ----------------------------------------------------------------------------------------------- sums

// Add rows, in integer multiples of 1 / scale, to the sums (centers, d + 1) of their labels; the last column counts
// the rows. One warp per row.
extern "C" __global__ void add_rows(const float* rows, const int* labels, long n, int d, double scale,
                                    unsigned long long* sums) {
    const int lane = threadIdx.x % 32;
    for (long i = grid_first() / 32; i < n; i += grid_stride() / 32) {
        unsigned long long* sum = sums + static_cast<long>(labels[i]) * (d + 1);
        for (int j = lane; j <= d; j += 32) {
            const long long units = j < d ? __double2ll_rn(rows[i * d + j] * scale) : 1;
            atomicAdd(sum + j, static_cast<unsigned long long>(units));
        }
    }
}

// ---------------------------------------------------------------------------------------------- seeds

// Rows that are tried for each seed.
constexpr int TRIALS = 8;
constexpr int CHUNK = 64;  // values of the tried rows that are in shared memory at a time

// One value of each tried row.
struct alignas(16) Tried {
    float of[TRIALS];
};

// Combine each of TRIALS values over the block; the results are returned to every thread, in a fixed order. All
// threads of the block must call it.
template <class T, class Combine>
__device__ inline void combine_block(T* value, Combine combine) {
    __shared__ T parts[TRIALS][WARPS];
#pragma unroll
    for (int t = 0; t < TRIALS; ++t) {
        for (int apart = 16; apart > 0; apart /= 2) {
            value[t] = combine(value[t], __shfl_xor_sync(ALL_LANES, value[t], apart));
        }
    }
    __syncthreads();  // another thread may still read the results of an earlier call
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int t = 0; t < TRIALS; ++t) parts[t][threadIdx.x / 32] = value[t];
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TRIALS; ++t) {
        value[t] = parts[t][0];
        for (int w = 1; w < WARPS; ++w) value[t] = combine(value[t], parts[t][w]);
    }
}

// A number between 0 and 1, never one of them, from the upper 23 of 32 bits.
__device__ inline float uniform(unsigned bits) {
    return (static_cast<float>(bits >> 9) + 0.5f) * (1.0f / (1 << 23));
}

// Draw TRIALS of m rows, each with a probability proportional to its weight, with replacement: the row whose
// exponential variable divided by the weight is smallest. Null weights are all 1. The last row if all weights are 0.
__device__ inline void draw_rows(const float* weights, long m, unsigned long long seed, int* drawn) {
    unsigned long long best[TRIALS] = {};
    for (long i = threadIdx.x; i < m; i += THREADS) {
        const float weight = weights == nullptr ? 1.0f : weights[i];
        unsigned long long hash = mixed(seed, i);
#pragma unroll
        for (int t = 0; t < TRIALS; ++t) {
            if (t % 2 == 0 && t > 0) hash = mixed(hash, t);
            const unsigned bits = static_cast<unsigned>(t % 2 == 0 ? hash : hash >> 32);
            const unsigned key = __float_as_uint(weight / -logf(uniform(bits)));
            const unsigned long long packed = static_cast<unsigned long long>(key) << 32 | static_cast<unsigned>(i);
            best[t] = packed > best[t] ? packed : best[t];
        }
    }
    combine_block(best, [](unsigned long long a, unsigned long long b) { return a > b ? a : b; });
#pragma unroll
    for (int t = 0; t < TRIALS; ++t) drawn[t] = static_cast<int>(best[t] & 0xffffffffu);
}

// For each of m rows and each tried one, the smaller of their squared distance and of `nearest` (null: infinity);
// their sums over the rows.
__device__ inline void try_rows(const float* columns, long n_picks, long m, int d, const float* nearest,
                                const int* drawn, float* tried, double* sums) {
    __shared__ Tried values[CHUNK];
    for (int t = 0; t < TRIALS; ++t) sums[t] = 0.0;
    for (int start = 0; start < d; start += CHUNK) {
        const int n = min(CHUNK, d - start);
        const float* chunk = columns + start * n_picks;
        __syncthreads();
#pragma unroll
        for (int t = 0; t < TRIALS; ++t) {
            for (int j = threadIdx.x; j < n; j += THREADS) values[j].of[t] = chunk[j * n_picks + drawn[t]];
        }
        __syncthreads();
        for (long i = threadIdx.x; i < m; i += THREADS) {
            float distance[TRIALS] = {};
            if (start > 0) {
#pragma unroll
                for (int t = 0; t < TRIALS; ++t) distance[t] = tried[t * n_picks + i];
            }
            for (int j = 0; j < n; ++j) {
                const float x = chunk[j * n_picks + i];
#pragma unroll
                for (int t = 0; t < TRIALS; ++t) {
                    const float gap = x - values[j].of[t];
                    distance[t] += gap * gap;
                }
            }
            const bool last = start + CHUNK >= d;
#pragma unroll
            for (int t = 0; t < TRIALS; ++t) {
                if (last && nearest != nullptr) distance[t] = fminf(distance[t], nearest[i]);
                tried[t * n_picks + i] = distance[t];
                if (last) sums[t] += distance[t];
            }
        }
    }
    combine_block(sums, [](double a, double b) { return a + b; });
}

// k-means++ (Arthur and Vassilvitskii 2007), with the best of TRIALS rows for each seed: for each group, rows whose
// distances from one another are large. One block per group.
//
// columns (d, n_picks): the rows, transposed, so that threads read adjacent values; those of group g are from
// pick_offsets[g] on. chosen: the indices of the rows for the centers from center_offsets[g] on. nearest (n_picks),
// tried (TRIALS, n_picks): scratch memory.
extern "C" __global__ void choose_seeds(const float* columns, long n_picks, const long* pick_offsets,
                                        const long* center_offsets, long n_groups, int d, unsigned long long seed,
                                        float* nearest, float* tried, int* chosen) {
    for (long g = blockIdx.x; g < n_groups; g += gridDim.x) {
        const long first = pick_offsets[g], m = pick_offsets[g + 1] - first;
        const unsigned long long seed_of_group = mixed(seed, g);
        for (long c = center_offsets[g]; c < center_offsets[g + 1]; ++c) {
            const float* known = c == center_offsets[g] ? nullptr : nearest + first;
            int drawn[TRIALS];
            double sums[TRIALS];
            draw_rows(known, m, mixed(seed_of_group, c - center_offsets[g]), drawn);
            try_rows(columns + first, n_picks, m, d, known, drawn, tried + first, sums);
            int best = 0;
            double least = sums[0];
            int row = drawn[0];
#pragma unroll
            for (int t = 1; t < TRIALS; ++t) {
                if (sums[t] < least) {
                    best = t;
                    least = sums[t];
                    row = drawn[t];
                }
            }
            for (long i = threadIdx.x; i < m; i += THREADS) nearest[first + i] = tried[best * n_picks + first + i];
            if (threadIdx.x == 0) chosen[c] = static_cast<int>(first) + row;
        }
    }
}
