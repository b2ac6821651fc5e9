// Means and spreads of patches: all that shards tell each other of their rows.
#include "common.cuh"

// Rows of a patch are adjacent in `order`: patch p has order[offsets[p]] to order[offsets[p + 1]]. Sums run in
// that order in double precision, so they are the CPU's to the last bit. A patch without rows gives zeros.
extern "C" __global__ void patch_moments(const float* points, const int* order, const long* offsets,
                                         long n_patches, float* out) {
    for (long p = grid_first(); p < n_patches; p += grid_stride()) {
        double sum[DIM] = {};
        double squares[DIM] = {};
        const long stop = offsets[p + 1];
        for (long at = offsets[p]; at < stop; ++at) {
            float point[DIM];
            load_point(points, __ldg(order + at), point);
            for (int a = 0; a < DIM; ++a) {
                const double x = point[a];
                sum[a] += x;
                squares[a] += x * x;
            }
        }
        const double rows = fmax(static_cast<double>(stop - offsets[p]), 1.0);
        for (int a = 0; a < DIM; ++a) {
            const double mean = sum[a] / rows;
            out[p * 2 * DIM + a] = static_cast<float>(mean);
            // Not fused: a variance of nothing but rounding must come out as on the CPU.
            const double variance = squares[a] / rows - __dmul_rn(mean, mean);
            out[p * 2 * DIM + DIM + a] = static_cast<float>(sqrt(fmax(variance, 0.0)));
        }
    }
}
