// The symmetric graph of neighbor lists.
//
// Every entry of a list is a directed edge, and becomes a key of 63 bits: the row that it points to, counted within a
// range of rows, then the row whose list it is in, then its rank there. Sorted keys are the edges to each row of the
// range, ascending by their source. A row's edges are these, merged with the entries of its own list. One warp per row.
#include "warps.cuh"

constexpr unsigned NO_ROW = 0xffffffffu;

// Entries of each list that are rows from `first` to `last`. Bytes of a row of k neighbors: 4 k read, 4 written.
extern "C" __global__ void count_into(const unsigned* ids, long n, int k, long first, long last, int* counts) {
    for (long i = first_warp(); i < n; i += warp_stride()) {
        int count = 0;
        for (int start = 0; start < k; start += 32) {
            const int s = start + lane_of();
            const long id = s < k ? ids[i * k + s] : NO_ROW;
            count += __popc(__ballot_sync(ALL_LANES, id >= first && id < last));
        }
        if (lane_of() == 0) counts[i] = count;
    }
}

// The keys of these entries, from offsets[i] on for the list of row first_source + i. Bytes of a row of k neighbors:
// 4 k + 8 read, and 8 written for each key.
extern "C" __global__ void write_keys(const unsigned* ids, long n, int k, long first_source, long first, long last,
                                      const long* offsets, int source_shift, int row_shift, long* keys) {
    const int lane = lane_of();
    for (long i = first_warp(); i < n; i += warp_stride()) {
        long at = offsets[i];
        for (int start = 0; start < k; start += 32) {
            const int s = start + lane;
            const long id = s < k ? ids[i * k + s] : NO_ROW;
            const bool within = id >= first && id < last;
            const unsigned votes = __ballot_sync(ALL_LANES, within);
            if (within) {
                keys[at + __popc(votes & ((1u << lane) - 1u))] =
                    ((id - first) << row_shift) + ((first_source + i) << source_shift) + s;
            }
            at += __popc(votes);
        }
    }
}

// An entry of a list: the neighbor, whether it is a row of the graph, and whether the row is in its list too. `at` is
// the index of the key of that edge; else that of the first key of a later source.
struct Entry {
    unsigned id;
    bool is_edge;
    bool is_mutual;
    long at;
};

// The entry at rank s of a list of k neighbors of a graph of n_rows rows. The keys of the edges to the list's row are
// keys[begin] to keys[end], of which row_key has the highest bits.
__device__ inline Entry read_entry(const unsigned* list, int s, int k, long n_rows, const long* keys, long begin,
                                   long end, long row_key, int source_shift) {
    Entry entry;
    entry.id = s < k ? list[s] : NO_ROW;
    entry.is_edge = static_cast<long>(entry.id) < n_rows;
    const long key = row_key + (static_cast<long>(entry.id) << source_shift);
    entry.at = end;
    for (long low = entry.is_edge ? begin : end; low < entry.at;) {
        const long middle = low + (entry.at - low) / 2;
        if (keys[middle] < key) {
            low = middle + 1;
        } else {
            entry.at = middle;
        }
    }
    const long found = entry.at < end ? keys[entry.at] : -1;
    entry.is_mutual = found >> source_shift == key >> source_shift;
    return entry;
}

// Edges of each row of a range: those to it, and the entries of its list that are no sources of these.
//
// ids: the lists of these rows. offsets: the keys of the edges to row i are offsets[i] to offsets[i + 1]. Bytes of a
// row of k neighbors: 4 k + 8 read, 4 written, and for each neighbor a binary search among the row's keys.
extern "C" __global__ void count_edges(const unsigned* ids, long n, int k, long n_rows, const long* offsets,
                                       const long* keys, int source_shift, int row_shift, int* counts) {
    for (long i = first_warp(); i < n; i += warp_stride()) {
        const long begin = offsets[i], end = offsets[i + 1];
        int count = static_cast<int>(end - begin);
        for (int start = 0; start < k; start += 32) {
            const Entry entry = read_entry(ids + i * k, start + lane_of(), k, n_rows, keys, begin, end,
                                           i << row_shift, source_shift);
            count += __popc(__ballot_sync(ALL_LANES, entry.is_edge && !entry.is_mutual));
        }
        if (lane_of() == 0) counts[i] = count;
    }
}

// How the edges of a range are written: null for what is not wanted.
struct EdgeArrays {
    int* indices;
    float* weights;
    float* conditional_p;
    unsigned char* codes;
    float smallest;
    double levels_per_unit;
    double last_level;
};

__device__ inline void write_edge(const EdgeArrays& edges, long at, int index, float out_p, float in_p) {
    edges.indices[at] = index;
    const float weight = out_p + in_p;
    if (edges.weights != nullptr) edges.weights[at] = weight;
    if (edges.conditional_p != nullptr) edges.conditional_p[at] = out_p;
    if (edges.codes != nullptr) {
        const double level = logf(weight / edges.smallest) * edges.levels_per_unit + 0.5;
        edges.codes[at] = static_cast<unsigned char>(fmax(fmin(level, edges.last_level), 0.0));
    }
}

// Write the edges of each row, ascending, from indptr[i] on: the other row, and p(j|i) + p(i|j) with p(j|i) besides, or
// the code of the nearest of levels in equal ratios. p(j|i) is the weight of j's rank in the list over the row's total.
//
// Before an edge come those to the row from earlier sources, which its key's index counts, and the entries of the list
// with lower ids that are no sources. Bytes of a row of k neighbors with m keys: 4 k + 8 m + 16 read, for each key the
// total of its source, and 12 or 5 written for each edge, of which there are from max(k, m) to k + m.
extern "C" __global__ void merge_edges(const unsigned* ids, long n, int k, long n_rows, const long* offsets,
                                       const long* keys, int source_shift, int row_shift, const float* list_weights,
                                       const float* totals, long first, const long* indptr, float smallest,
                                       double levels_per_unit, double last_level, int* indices, float* weights,
                                       float* conditional_p, unsigned char* codes) {
    const EdgeArrays edges = {indices, weights, conditional_p, codes, smallest, levels_per_unit, last_level};
    const int lane = lane_of();
    const long rank_mask = (1L << source_shift) - 1, source_mask = (1L << (row_shift - source_shift)) - 1;
    for (long i = first_warp(); i < n; i += warp_stride()) {
        const unsigned* list = ids + i * k;
        const long begin = offsets[i], end = offsets[i + 1], row_key = i << row_shift;
        const float total = totals[first + i];
        // The entries of the list; its number of turns is the same for all lanes.
        for (int start = 0; start < k; start += 32) {
            const int s = start + lane;
            const Entry mine = read_entry(list, s, k, n_rows, keys, begin, end, row_key, source_shift);
            int n_before = 0;
            for (int from = 0; from < k; from += 32) {
                const Entry other = read_entry(list, from + lane, k, n_rows, keys, begin, end, row_key, source_shift);
                unsigned only_out = __ballot_sync(ALL_LANES, other.is_edge && !other.is_mutual);
                while (only_out) {
                    const int which = __ffs(static_cast<int>(only_out)) - 1;
                    only_out &= only_out - 1;
                    n_before += __shfl_sync(ALL_LANES, other.id, which) < mine.id;
                }
            }
            if (mine.is_edge) {
                float in_p = 0.0f;
                if (mine.is_mutual) in_p = list_weights[keys[mine.at] & rank_mask] / totals[mine.id];
                write_edge(edges, indptr[i] + (mine.at - begin) + n_before, static_cast<int>(mine.id),
                           list_weights[s] / total, in_p);
            }
        }
        // The other edges to the row.
        for (long start = begin; start < end; start += 32) {
            const long e = start + lane;
            const long key = keys[e < end ? e : end - 1];
            const unsigned source = static_cast<unsigned>((key >> source_shift) & source_mask);
            int n_before = 0;
            int n_same = 0;
            for (int from = 0; from < k; from += 32) {
                const Entry other = read_entry(list, from + lane, k, n_rows, keys, begin, end, row_key, source_shift);
                const unsigned only_out = __ballot_sync(ALL_LANES, other.is_edge && !other.is_mutual);
                unsigned entries = __ballot_sync(ALL_LANES, other.is_edge);
                while (entries) {
                    const int which = __ffs(static_cast<int>(entries)) - 1;
                    entries &= entries - 1;
                    const unsigned id = __shfl_sync(ALL_LANES, other.id, which);
                    n_before += (only_out >> which & 1u) && id < source;
                    n_same += id == source;
                }
            }
            if (e < end && n_same == 0) {
                write_edge(edges, indptr[i] + (e - begin) + n_before, static_cast<int>(source), 0.0f,
                           list_weights[key & rank_mask] / totals[source]);
            }
        }
    }
}
