// Means and standard deviations of patches, which shards exchange to represent their rows.
#include "common.cuh"

constexpr int PATCH_LANES = 8;

// Rows of a patch are adjacent in `order`: patch p has order[offsets[p]] to order[offsets[p + 1]]. Eight lanes per
// patch: patches far from all other shards can have many rows. Sums are in double precision and in a fixed order.
// The moments of a patch without rows are zero.
extern "C" __global__ void patch_moments(const float* points, const int* order, const long* offsets,
                                         long n_patches, float* out) {
    const int lane = threadIdx.x % PATCH_LANES;
    for (long p = grid_first() / PATCH_LANES; p < n_patches; p += grid_stride() / PATCH_LANES) {
        double sum[DIM] = {};
        double squares[DIM] = {};
        const long stop = offsets[p + 1];
        for (long at = offsets[p] + lane; at < stop; at += PATCH_LANES) {
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
            const double mean = group_sum<PATCH_LANES>(sum[a]) / rows;
            // Not fused: a variance that is only rounding error must be the same as on the CPU.
            const double variance = group_sum<PATCH_LANES>(squares[a]) / rows - __dmul_rn(mean, mean);
            if (lane == 0) {
                out[p * 2 * DIM + a] = static_cast<float>(mean);
                out[p * 2 * DIM + DIM + a] = static_cast<float>(sqrt(fmax(variance, 0.0)));
            }
        }
    }
}
