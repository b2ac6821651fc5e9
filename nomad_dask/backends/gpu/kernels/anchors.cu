// Positions of rows between those of their nearest anchors, which are rows whose positions are known.
#include "warps.cuh"

constexpr int TILE = 64;         // rows of a cell, and anchors, that are compared at once
constexpr int DEPTH = 16;        // dimensions of them in shared memory
constexpr int MAX_NEAREST = 4;   // anchors that determine a position, as in anchors.py
constexpr int LANES = THREADS / TILE;
constexpr int NO_ANCHOR = 0x7fffffff;

// The anchors of the cells that are searched for one cell, as one sequence: where in it the next ones are.
struct Place {
    long at;   // index in `searched`
    int skip;  // anchors of that cell which come before
};

__device__ inline Place ahead_of(Place place, int n, const int* searched, long stop, const int* counts) {
    place.skip += n;
    while (place.at < stop && place.skip >= counts[searched[place.at]]) place.skip -= counts[searched[place.at++]];
    return place;
}

// Insert an anchor into an ascending list, and drop the last entry, if the anchor comes before it.
__device__ inline void keep(float* values, int* anchors, float value, int anchor) {
    if (!before(value, anchor, values[MAX_NEAREST - 1], anchors[MAX_NEAREST - 1])) return;
    values[MAX_NEAREST - 1] = value;
    anchors[MAX_NEAREST - 1] = anchor;
#pragma unroll
    for (int s = MAX_NEAREST - 1; s > 0; --s) {
        if (before(values[s], anchors[s], values[s - 1], anchors[s - 1])) {
            const float v = values[s];
            const int a = anchors[s];
            values[s] = values[s - 1];
            anchors[s] = anchors[s - 1];
            values[s - 1] = v;
            anchors[s - 1] = a;
        }
    }
}

// Remove the first entry of the lists of a group of LANES lanes, as if they were one, and return it.
__device__ inline int take_first(float* values, int* anchors) {
    float value = values[0];
    int anchor = anchors[0];
    for (int apart = LANES / 2; apart > 0; apart /= 2) {
        const float other = __shfl_xor_sync(group_mask<LANES>(), value, apart, LANES);
        const int other_anchor = __shfl_xor_sync(group_mask<LANES>(), anchor, apart, LANES);
        if (before(other, other_anchor, value, anchor)) {
            value = other;
            anchor = other_anchor;
        }
    }
    if (anchors[0] == anchor) {
#pragma unroll
        for (int s = 0; s + 1 < MAX_NEAREST; ++s) {
            values[s] = values[s + 1];
            anchors[s] = anchors[s + 1];
        }
        values[MAX_NEAREST - 1] = infinity();
        anchors[MAX_NEAREST - 1] = NO_ANCHOR;
    }
    return anchor;
}

// The mean of the positions of each row's nearest anchors, weighted 1, 1/2, 1/3, 1/4. A block takes one of `pieces`
// (n_pieces, 3) at a time: a cell, the first of some of its rows, and their number, at most TILE.
//
// The anchors of cell c are starts[c] to starts[c] + counts[c]; for the rows of cell c those of the cells
// searched[offsets[c]] to searched[offsets[c + 1]] are compared, by squared distances in float32.
//
// Bytes of a row of d dimensions: 4 d read and 4 DIM written, and 4 d / TILE for each of the compared anchors, mostly
// from the L2 cache: pieces of near cells compare the same ones.
extern "C" __global__ void __launch_bounds__(THREADS)
    place_rows(const float* rows, const int* pieces, long n_pieces, int d, const long* offsets, const int* searched,
               const int* starts, const int* counts, const float* anchors, const float* positions, float* out) {
    __shared__ float4 row_part[DEPTH][TILE / 4 + 1];  // one more, so that threads write to different banks
    __shared__ float4 anchor_part[DEPTH][TILE / 4 + 1];
    __shared__ float distances[TILE][TILE + 4];
    __shared__ int compared[TILE];
    const int across = threadIdx.x % (TILE / 4), down = threadIdx.x / (TILE / 4);
    const int mine = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    for (long piece = blockIdx.x; piece < n_pieces; piece += gridDim.x) {
        const int cell = pieces[3 * piece], n_rows = pieces[3 * piece + 2];
        const long first = pieces[3 * piece + 1], stop = offsets[cell + 1];
        float values[MAX_NEAREST];
        int nearest[MAX_NEAREST];
#pragma unroll
        for (int s = 0; s < MAX_NEAREST; ++s) {
            values[s] = infinity();
            nearest[s] = NO_ANCHOR;
        }
        Place place = ahead_of(Place{offsets[cell], 0}, 0, searched, stop, counts);
        while (place.at < stop) {
            __syncthreads();  // another thread may still read the anchors of the last turn
            if (threadIdx.x < TILE) {
                const Place own = ahead_of(place, threadIdx.x, searched, stop, counts);
                compared[threadIdx.x] = own.at < stop ? starts[searched[own.at]] + own.skip : -1;
            }
            place = ahead_of(place, TILE, searched, stop, counts);
            float sums[4][4] = {};
            for (int from = 0; from < d; from += DEPTH) {
                __syncthreads();
                for (int e = threadIdx.x; e < TILE * DEPTH; e += THREADS) {
                    const int r = e / DEPTH, k = e % DEPTH, anchor = compared[r];
                    const bool within = from + k < d;
                    reinterpret_cast<float*>(row_part[k])[r] =
                        within && r < n_rows ? __ldg(rows + (first + r) * d + from + k) : 0.0f;
                    reinterpret_cast<float*>(anchor_part[k])[r] =
                        within && anchor >= 0 ? __ldg(anchors + static_cast<long>(anchor) * d + from + k) : 0.0f;
                }
                __syncthreads();
                for (int k = 0; k < DEPTH; ++k) {
                    const float4 x4 = row_part[k][down], y4 = anchor_part[k][across];
                    const float x[4] = {x4.x, x4.y, x4.z, x4.w}, y[4] = {y4.x, y4.y, y4.z, y4.w};
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
#pragma unroll
                        for (int j = 0; j < 4; ++j) {
                            const float gap = x[i] - y[j];
                            sums[i][j] += gap * gap;
                        }
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) distances[4 * down + i][4 * across + j] = sums[i][j];
            }
            __syncthreads();
            for (int c = lane; c < TILE; c += LANES) {
                if (compared[c] >= 0) keep(values, nearest, distances[mine][c], compared[c]);
            }
        }
        double mean[DIM] = {};
        double total = 0;
        for (int s = 0; s < MAX_NEAREST; ++s) {
            const int anchor = take_first(values, nearest);
            if (anchor == NO_ANCHOR) continue;
            const double weight = 1.0 / (s + 1);
            total += weight;
            for (int a = 0; a < DIM; ++a) mean[a] += weight * positions[static_cast<long>(anchor) * DIM + a];
        }
        if (lane == 0 && mine < n_rows) {
            for (int a = 0; a < DIM; ++a) out[(first + mine) * DIM + a] = static_cast<float>(mean[a] / fmax(total, 1.0));
        }
    }
}
