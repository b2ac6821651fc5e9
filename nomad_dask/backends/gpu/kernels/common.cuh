// Shared by all kernels: structs that Python fills, reductions in a fixed order, and interpolation from the mesh.
//
// Compiled with -DDIM=2 or -DDIM=3. Kernels are launched with blocks of THREADS threads and use grid-stride
// loops, so that any number of blocks is correct.
#pragma once

#if DIM != 2 && DIM != 3
#error "compile with -DDIM=2 or -DDIM=3"
#endif

static_assert(sizeof(long) == 8, "offsets are 64 bits wide: Linux only");

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
[[maybe_unused]] constexpr unsigned ALL_LANES = 0xffffffffu;

// Position and size of the mesh. In device memory, so that a captured graph stays valid when the mesh moves.
struct Frame {
    float origin[3];
    float inverse;  // 1 / spacing: mesh coordinates are clamp((x - origin) * inverse, 1, upper)
    float upper[3];
    int shape[3];
    long stride[3];         // of the mesh
    long padded_stride[3];  // of the mesh padded for the Fourier transform
    float scale;            // fixed-point units per charge
    float inverse_scale;
};
static_assert(sizeof(Frame) == 96, "as numpy's aligned dtype has it");

// Scalars of one epoch.
struct Numbers {
    double n_total;
    double factor;
    double remote_z;
    double local_z;
    double share;
    int z_known;
    float attract;
    float rate;
    float momentum;
    float max_step_norm;
};
static_assert(sizeof(Numbers) == 64, "as numpy's aligned dtype has it");

// Factor on the repulsion R. The part of Z of the other shards is assumed to have changed since the last epoch in
// the same ratio as the own part; before it is known, their rows are assumed to be as dense as the own rows.
__device__ inline float repel_factor(const Numbers& numbers, double z) {
    const double z_all =
        numbers.z_known ? z + numbers.remote_z * (z / numbers.local_z) : z * numbers.share;
    return static_cast<float>(numbers.factor * numbers.n_total / fmax(z_all, 1e-12));
}

__device__ inline float infinity() { return __int_as_float(0x7f800000); }
__device__ inline long grid_first() { return static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline long grid_stride() { return static_cast<long>(gridDim.x) * blockDim.x; }

// A hash of `h` and `part` (splitmix64).
__device__ inline unsigned long long mixed(unsigned long long h, long part) {
    h = (h ^ static_cast<unsigned long long>(part)) * 0x9E3779B97F4A7C15ULL;
    h ^= h >> 30;
    h *= 0xBF58476D1CE4E5B9ULL;
    return h ^ h >> 27;
}

// ---------------------------------------------------------------------------- sums in a fixed order

// Mask of the group of LANES (a power of two) adjacent lanes that contains this thread.
template <int LANES>
__device__ inline unsigned group_mask() {
    if (LANES == 32) return ALL_LANES;
    return ((1u << (LANES & 31)) - 1u) << (threadIdx.x & 31u & ~(LANES - 1u));
}

// Sum over a group of lanes, bitwise identical in every lane. All lanes of the group must call it.
template <int LANES, class T>
__device__ inline T group_sum(T value) {
    const unsigned mask = group_mask<LANES>();
    for (int apart = LANES / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(mask, value, apart, LANES);
    return value;
}

// Sum over the block, returned to every thread. All threads of the block must call it.
__device__ inline double block_sum(double value) {
    __shared__ double parts[WARPS];
    value = group_sum<32>(value);
    __syncthreads();  // another thread may still read the result of an earlier call
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < WARPS; ++w) sum += parts[w];
    return sum;
}

// Corners of the bounding box over the block, returned to every thread. All threads of the block must call it.
__device__ inline void block_box(float* low, float* high) {
    __shared__ float parts[WARPS][2 * DIM];
    for (int apart = 16; apart > 0; apart /= 2) {
        for (int a = 0; a < DIM; ++a) {
            low[a] = fminf(low[a], __shfl_xor_sync(ALL_LANES, low[a], apart));
            high[a] = fmaxf(high[a], __shfl_xor_sync(ALL_LANES, high[a], apart));
        }
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        for (int a = 0; a < DIM; ++a) {
            parts[threadIdx.x / 32][a] = low[a];
            parts[threadIdx.x / 32][DIM + a] = high[a];
        }
    }
    __syncthreads();
    for (int w = 0; w < WARPS; ++w) {
        for (int a = 0; a < DIM; ++a) {
            low[a] = fminf(low[a], parts[w][a]);
            high[a] = fmaxf(high[a], parts[w][DIM + a]);
        }
    }
}

// ------------------------------------------------------------------------------------------ loading

__device__ inline void load_point(const float* points, long row, float* point) {
#if DIM == 2
    const float2 pair = __ldg(reinterpret_cast<const float2*>(points) + row);
    point[0] = pair.x;
    point[1] = pair.y;
#else
    for (int a = 0; a < DIM; ++a) point[a] = __ldg(points + row * DIM + a);
#endif
}

__device__ inline void store_point(float* points, long row, const float* point) {
#if DIM == 2
    reinterpret_cast<float2*>(points)[row] = make_float2(point[0], point[1]);
#else
    for (int a = 0; a < DIM; ++a) points[row * DIM + a] = point[a];
#endif
}

// ------------------------------------------------------------------------------------------ the mesh

// Number of lines of four nodes in the cubic spline stencil of a point.
[[maybe_unused]] constexpr int STENCIL_LINES = DIM == 2 ? 4 : 16;

// The first node of the stencil along an axis, and the distance (0 to 1) of the point from the second node.
__device__ inline int stencil_start(const Frame* frame, int axis, float x, float* beyond) {
    const float units = fminf(fmaxf((x - frame->origin[axis]) * frame->inverse, 1.0f), frame->upper[axis]);
    const int node = static_cast<int>(units);
    *beyond = units - static_cast<float>(node);
    return node - 1;
}

__device__ inline void spline_values(float t, float* value) {
    const float s = 1.0f - t;
    const float sixth = 1.0f / 6.0f;
    value[0] = s * s * s * sixth;
    value[1] = ((3.0f * t - 6.0f) * t * t + 4.0f) * sixth;
    value[2] = (((3.0f - 3.0f * t) * t + 3.0f) * t + 1.0f) * sixth;
    value[3] = t * t * t * sixth;
}

__device__ inline void spline_slopes(float t, float* slope) {
    const float s = 1.0f - t;
    slope[0] = -0.5f * s * s;
    slope[1] = 0.5f * (3.0f * t - 4.0f) * t;
    slope[2] = 0.5f * ((2.0f - 3.0f * t) * t + 1.0f);
    slope[3] = 0.5f * t * t;
}

// Select one of four numbers by an index that is unknown at compile time: registers cannot be indexed.
__device__ inline float pick(const float* four, int index) {
    const float low = (index & 1) ? four[1] : four[0];
    const float high = (index & 1) ? four[3] : four[2];
    return (index & 2) ? high : low;
}

// U and R = -grad U / 2 at a point.
struct Reading {
    float potential;
    float repulsion[DIM];
};

// The contribution of the stencil lines first, first + LANES, .. to U and R. Lane l of a group of LANES calls it
// with first = l, and the group adds up with `group_sum`; LANES = 1, first = 0 reads all lines.
template <int LANES>
__device__ inline Reading read_lines(const Frame* frame, const float* potential, const float* point, int first) {
    float value[DIM][4];
    float slope[DIM][4];
    long base = 0;
    for (int a = 0; a < DIM; ++a) {
        float t;
        base += stencil_start(frame, a, point[a], &t) * frame->padded_stride[a];
        spline_values(t, value[a]);
        spline_slopes(t, slope[a]);
    }
    Reading sum = {};
    // At least one iteration; its line can be beyond the last when there are more lanes than lines.
#pragma unroll
    for (int turn = 0; turn < (STENCIL_LINES + LANES - 1) / LANES; ++turn) {
        const int line = first + turn * LANES;
        if (line >= STENCIL_LINES) break;
#if DIM == 2
        const float* at = potential + base + line * frame->padded_stride[0];
        const float across = pick(value[0], line);
#else
        const float* at =
            potential + base + (line >> 2) * frame->padded_stride[0] + (line & 3) * frame->padded_stride[1];
        const float v0 = pick(value[0], line >> 2);
        const float v1 = pick(value[1], line & 3);
        const float across = v0 * v1;
#endif
        const float m0 = __ldg(at), m1 = __ldg(at + 1), m2 = __ldg(at + 2), m3 = __ldg(at + 3);
        const float* v = value[DIM - 1];
        const float* s = slope[DIM - 1];
        const float along = (v[0] * m0 + v[1] * m1) + (v[2] * m2 + v[3] * m3);
        sum.potential += across * along;
        sum.repulsion[DIM - 1] += across * ((s[0] * m0 + s[1] * m1) + (s[2] * m2 + s[3] * m3));
#if DIM == 2
        sum.repulsion[0] += pick(slope[0], line) * along;
#else
        sum.repulsion[0] += pick(slope[0], line >> 2) * v1 * along;
        sum.repulsion[1] += v0 * pick(slope[1], line & 3) * along;
#endif
    }
    for (int a = 0; a < DIM; ++a) sum.repulsion[a] *= -0.5f * frame->inverse;
    return sum;
}
