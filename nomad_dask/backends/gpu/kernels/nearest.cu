// Neighbor search among rows sorted by cell, and selection of the smallest products.
//
// Products in half precision select candidates, whose distances are then computed in float32. Half precision is
// sufficient because both factors are relative to the center of the searched cell and scaled to unit length: nothing
// overflows, and errors decrease with the distance to the rows of the cell.
//
// A list is maintained by one warp in ascending order of (value, row), in device memory: lists are short enough to
// stay in the L1 cache, and can have any length. An empty slot has value infinity and row -1.
#include "warps.cuh"

// Insert a row into a list and drop the last entry, before which the row must sort. Duplicates are not inserted.
__device__ inline void insert(float* values, int* rows, int length, float value, int row) {
    const int lane = lane_of();
    int at = 0;
    for (int start = 0; start < length; start += 32) {
        const int slot = start + lane;
        const int ahead =
            __popc(__ballot_sync(ALL_LANES, slot < length && before(values[slot], rows[slot], value, row)));
        at += ahead;
        if (ahead < 32) break;
    }
    if (rows[at] == row) return;
    // From the end, so that the 32 slots that an iteration reads have not been changed yet.
    for (int start = (length - 1) / 32 * 32; start + 31 >= at; start -= 32) {
        const int slot = start + lane;
        const bool moves = slot > at && slot < length;
        const float above = moves ? values[slot - 1] : value;
        const int row_above = moves ? rows[slot - 1] : row;
        __syncwarp();
        if (moves || slot == at) {
            values[slot] = above;
            rows[slot] = row_above;
        }
        __syncwarp();
    }
}

// Insert one row per lane into the list of the warp where it qualifies.
__device__ inline void offer(float* values, int* rows, int length, float value, int row) {
    unsigned votes = __ballot_sync(ALL_LANES, before(value, row, values[length - 1], rows[length - 1]));
    while (votes) {
        const int from = __ffs(static_cast<int>(votes)) - 1;
        votes &= votes - 1;
        const float offered = __shfl_sync(ALL_LANES, value, from);
        const int offered_row = __shfl_sync(ALL_LANES, row, from);
        if (before(offered, offered_row, values[length - 1], rows[length - 1])) {
            insert(values, rows, length, offered, offered_row);
        }
    }
}

// Bits of the half-precision number nearest to x, |x| <= 1; ties to even. With integers, because cuda_fp16.h may not
// be installed with the compiler.
__device__ inline unsigned short half_bits(float x) {
    const unsigned bits = __float_as_uint(x);
    const unsigned sign = (bits >> 16) & 0x8000u;
    const float size = __uint_as_float(bits & 0x7fffffffu);
    unsigned half;
    if (size < 6.103515625e-05f) {
        // Subnormal halves are multiples of 2^-24, and so are floats from 0.5 to 1.
        half = __float_as_uint(size + 0.5f) - 0x3f000000u;
    } else {
        const unsigned whole = __float_as_uint(size);
        half = ((whole + 0xfffu + ((whole >> 13) & 1u)) >> 13) - (112u << 10);
    }
    return static_cast<unsigned short>(sign | half);
}

// rows[picks[i]] - centers[center_of[i]], scaled to unit length, in half precision; and its length. Columns from d to
// pitch are zero. One warp per row.
extern "C" __global__ void center_rows(const float* rows, const int* picks, const int* center_of,
                                       const float* centers, long n, int d, int pitch, unsigned short* out,
                                       float* lengths) {
    const int lane = lane_of();
    for (long i = first_warp(); i < n; i += warp_stride()) {
        const float* row = rows + static_cast<long>(picks[i]) * d;
        const float* center = centers + static_cast<long>(center_of[i]) * d;
        float sum = 0.0f;
        for (int j = lane; j < d; j += 32) {
            const float gap = row[j] - __ldg(center + j);
            sum += gap * gap;
        }
        sum = group_sum<32>(sum);
        const float length = sqrtf(sum);
        const float scale = length > 0.0f ? 1.0f / length : 0.0f;
        for (int j = lane; j < pitch; j += 32) {
            const float part = j < d ? (row[j] - __ldg(center + j)) * scale : 0.0f;
            out[i * pitch + j] = half_bits(fminf(fmaxf(part, -1.0f), 1.0f));
        }
        if (lane == 0) lengths[i] = length;
    }
}

// Argument of `scan` for each cell: the range of its rows that was multiplied; none if n_targets is 0.
struct Tile {
    long product;       // offset of the products of its first query
    long pitch;         // offset between the products of successive queries
    long n_targets;
    long first_target;  // index of its first row in target_lengths
    long first_row;     // row number of its first row
    long first_pair;    // index of its first pair in the pairs sorted by cell
};

// Merge products into the lists of the nearest rows of each query, one warp per query.
//
// cells, pairs (n, width): the cells that a query probes, -1 for none, and the index of (query, cell) in the pairs
// sorted by cell; query_lengths starts at pair base_pair. own: the query's own row, which is excluded.
extern "C" __global__ void scan(const float* products, const float* query_lengths, const float* target_lengths,
                                const int* cells, const int* pairs, const Tile* tiles, const int* own, long n,
                                int width, long base_pair, int kept, float* values, int* rows) {
    const int lane = lane_of();
    for (long q = first_warp(); q < n; q += warp_stride()) {
        float* near = values + q * kept;
        int* near_rows = rows + q * kept;
        const int own_row = own[q];
        for (int s = 0; s < width; ++s) {
            const int cell = cells[q * width + s];
            if (cell < 0) continue;
            const Tile tile = tiles[cell];
            if (tile.n_targets == 0) continue;
            const long pair = pairs[q * width + s];
            const float* product = products + tile.product + (pair - tile.first_pair) * tile.pitch;
            const float* lengths = target_lengths + tile.first_target;
            const float a = query_lengths[pair - base_pair];
            for (long start = 0; start < tile.n_targets; start += 128) {
                float value[4];
                bool below = false;
                const float last = near[kept - 1];
#pragma unroll
                for (int u = 0; u < 4; ++u) {
                    const long j = start + 32 * u + lane;
                    value[u] = infinity();
                    if (j < tile.n_targets && tile.first_row + j != own_row) {
                        const float b = lengths[j];
                        value[u] = (a * a + b * b) - 2.0f * (a * b) * product[j];
                    }
                    below = below || value[u] <= last;
                }
                if (!__any_sync(ALL_LANES, below)) continue;
#pragma unroll
                for (int u = 0; u < 4; ++u) {
                    const long j = start + 32 * u + lane;
                    offer(near, near_rows, kept, value[u], static_cast<int>(tile.first_row + j));
                }
            }
        }
    }
}

// Squared distance of two rows of d values, bitwise symmetric in x and y. Called by a whole warp.
__device__ inline float squared_distance(const float* x, const float* y, int d) {
    const int lane = lane_of();
    float sum = 0.0f;
    if (d % 4 == 0) {
        const float4* x4 = reinterpret_cast<const float4*>(x);
        const float4* y4 = reinterpret_cast<const float4*>(y);
#pragma unroll 4
        for (int j = lane; j < d / 4; j += 32) {
            const float4 v = x4[j];
            const float4 w = y4[j];
            const float a = v.x - w.x, b = v.y - w.y, c = v.z - w.z, e = v.w - w.w;
            sum += (a * a + b * b) + (c * c + e * e);
        }
    } else {
        for (int j = lane; j < d; j += 32) {
            const float gap = x[j] - y[j];
            sum += gap * gap;
        }
    }
    return group_sum<32>(sum);
}

// Merge the exact distances of the candidates (n, kept) into the lists (n, k) of each query, one warp per query.
// places: index in `targets` of each row, -1 for rows that are not loaded; null if row i is at index i.
extern "C" __global__ void rank_candidates(const float* queries, const float* targets, const int* places,
                                           const int* candidates, long n, int kept, int d, int k, float* distances,
                                           int* ids) {
    const int lane = lane_of();
    for (long q = first_warp(); q < n; q += warp_stride()) {
        const float* query = queries + q * d;
        for (int start = 0; start < kept; start += 32) {
            const int mine = start + lane < kept ? candidates[q * kept + start + lane] : -1;
            int place = mine;
            if (places != nullptr && mine >= 0) place = places[mine];
            unsigned there = __ballot_sync(ALL_LANES, place >= 0);
            float distance = infinity();
            while (there) {
                const int from = __ffs(static_cast<int>(there)) - 1;
                there &= there - 1;
                const long at = __shfl_sync(ALL_LANES, place, from);
                const float found = squared_distance(query, targets + at * d, d);
                if (lane == from) distance = found;
            }
            offer(distances + q * k, ids + q * k, k, distance, mine);
        }
    }
}

// The `kept` smallest norms[j] - 2 products[i, j] of each row i, one warp per row; merged into existing lists.
extern "C" __global__ void select_columns(const float* products, const float* norms, long n, long m, int kept,
                                          float* values, int* columns) {
    const int lane = lane_of();
    for (long i = first_warp(); i < n; i += warp_stride()) {
        for (long start = 0; start < m; start += 32) {
            const long j = start + lane;
            const float value = j < m ? norms[j] - 2.0f * products[i * m + j] : infinity();
            offer(values + i * kept, columns + i * kept, kept, value, static_cast<int>(j));
        }
    }
}
