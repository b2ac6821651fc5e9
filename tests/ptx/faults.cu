// Small kernels with one fault each, and some with none: run as two blocks of 256 threads.
//
// The comment before a kernel is a part of the message, as a regular expression; "sound" where nothing is reported.
#define KERNEL(name) extern "C" __global__ void name(int* out, int* other, unsigned long long* sum, int zero)
#define T static_cast<int>(threadIdx.x)
#define I static_cast<int>(256 * blockIdx.x + threadIdx.x)

constexpr unsigned ALL = 0xffffffffu;
__shared__ int x[256];
__shared__ int y[256];

// ---------------------------------------------------------------------------------------------- races

// race: no barrier
KERNEL(no_block_barrier) {
    x[T] = 0;
    __syncthreads();
    x[T] = T;
    out[I] = x[255 - T];
}

// sound
KERNEL(block_barrier) {
    x[T] = T;
    __syncthreads();
    out[I] = x[255 - T];
}

// race: no barrier
KERNEL(no_barrier_at_the_end_of_a_loop) {
    for (int k = 0; k < 9; ++k) {
        x[T] = k;
        __syncthreads();
        out[I] = x[T ^ 99];
    }
}

// sound
KERNEL(barrier_at_the_end_of_a_loop) {
    for (int k = 0; k < 9; ++k) {
        x[T] = k;
        __syncthreads();
        out[I] = x[T ^ 99];
        __syncthreads();
    }
}

// race: no barrier
KERNEL(no_warp_barrier) {
    x[T] = 0;
    __syncwarp();
    x[T] = T;
    out[I] = x[T ^ 1];
}

// sound
KERNEL(warp_barrier) {
    x[T] = T;
    __syncwarp();
    out[I] = x[T ^ 1];
}

// race: no barrier|before it is written
KERNEL(a_shuffle_separates_nothing) {
    x[T] = T;
    const int three = __shfl_sync(ALL, T, 3);
    out[I] = x[T ^ 1] + three;
}

// race: no barrier|before it is written
KERNEL(a_vote_separates_nothing) {
    x[T] = T;
    const int any = __any_sync(ALL, T);
    out[I] = x[T ^ 1] + any;
}

// race: no barrier|before it is written
KERNEL(a_part_of_a_warp_separates_nothing) {
    x[T] = T;
    __syncwarp(3u << (T & 30));
    out[I] = x[T ^ 1];
}

// race: no barrier|before it is written
KERNEL(a_warp_barrier_does_not_separate_warps) {
    x[T] = T;
    __syncwarp();
    out[I] = x[T ^ 32];
}

// race: no barrier
KERNEL(a_block_barrier_does_not_separate_blocks) {
    __syncthreads();
    out[I ^ 256] = I;
    __syncthreads();
    other[I] = out[I];
}

// race: no barrier
KERNEL(blocks_write_different_values) { out[T] = blockIdx.x; }

// sound
KERNEL(blocks_write_the_same_value) {
    out[T] = 7;
    out[T + 256] = 7;
}

// race: no barrier
KERNEL(reads_while_another_writes) {
    out[I] = T;
    other[I] = out[I ^ 2];
}

// race: no barrier
KERNEL(atomic_then_plain) {
    atomicAdd(sum, 1ull);
    if (T == 5) other[I] = *sum;
}

// race: no barrier
KERNEL(plain_then_atomic) {
    if (T == 5) *sum = 0;
    atomicAdd(sum, 1ull);
}

// sound
KERNEL(atomics) {
    atomicAdd(sum, 1ull);
    out[I] = 1;
}

// race: no barrier
KERNEL(wide_and_narrow) {
    reinterpret_cast<long long*>(out)[I / 4] = T;
    out[I] = T;
}

// sound
KERNEL(own_values) {
    out[I] = T;
    out[I] += 1;
    out[I] *= 2;
}

// ---------------------------------------------------------------------------------- memory out of reach

// out\[I \+ 1\] = T;.* outside of all arrays, to byte 2048 of 2048
KERNEL(beyond) { out[I + 1] = T; }

// outside of all arrays, to byte -4 of 2048
KERNEL(before) { other[I] = out[I - 1]; }

// outside of all arrays
KERNEL(atomic_beyond) { atomicAdd(sum + 256, 1ull); }

// outside of all arrays
KERNEL(no_guard) {
    if (I <= 511) other[I + zero + 1] = T;
}

// left out what follows
KERNEL(null_known_to_the_compiler) {
    int* none = zero ? out : nullptr;
    other[I] = none[I];
}

// outside of all arrays, to byte 0x[0-9a-f]+ of memory
KERNEL(null) {
    int* none = out - reinterpret_cast<long long>(out) / 4;
    other[I] = none[I];
}

// outside of all arrays, to byte 1024 of 1024 of x
KERNEL(shared_beyond) {
    x[T] = T;
    __syncthreads();
    out[I] = x[T + zero + 1];
}

// outside of all arrays
KERNEL(from_one_shared_array_into_another) {
    x[T] = y[T] = T;
    __syncthreads();
    out[I] = x[T + zero + 256] + y[T];
}

// misaligned access
KERNEL(misaligned) {
    const int4 four = reinterpret_cast<int4*>(out + 1)[T & 63];
    other[I] = four.x + four.y + four.z + four.w;
}

// data that is read as constant
KERNEL(constant_is_written) {
    other[I] = __ldg(out + I);
    out[I] = T;
}

// data that is read as constant
KERNEL(written_is_read_as_constant) {
    out[I] = T;
    __syncthreads();
    other[I] = __ldg(out + (I ^ 1));
}

// read before it is written
KERNEL(shared_memory_is_empty) {
    if (T) x[T] = T;
    __syncthreads();
    out[I] = x[T];
}

// -------------------------------------------------------------------------------------- barriers and warps

// threads that do not come: 156 have ended
KERNEL(divergent_barrier) {
    if (T < 100) __syncthreads();
    out[I] = T;
}

// another thread of the block waits at
KERNEL(different_barriers) {
    if (T < 100) {
        out[I] = T;
        __syncthreads();
    } else {
        __syncthreads();
        other[I] = T;
    }
}

// threads that do not come
KERNEL(warp_without_some_lanes) {
    if (T % 32 < 5) __syncwarp();
    out[I] = T;
}

// threads that do not come: 0 have ended, others wait at
KERNEL(warp_at_different_operations) {
    int from = 0;
    if (T % 32 < 5) {
        from = __shfl_sync(ALL, T, 0);
    } else {
        __syncwarp();
    }
    out[I] = from;
}

// lane \d+ is not in its own mask 00000001
KERNEL(not_in_its_own_mask) {
    __syncwarp(1u);
    out[I] = T;
}

// shuffle from lane 9, which is not in the mask
KERNEL(source_not_in_the_mask) { out[I] = __shfl_sync(0xfu << (T & 28), T, 9); }

// sound
KERNEL(some_lanes_of_a_warp) {
    int from = 0;
    if (T % 32 < 8) from = __shfl_sync(0xffu, T, 7, 8);
    out[I] = from;
}

// division by zero
KERNEL(division) { out[I] = T / (T - 5 - zero); }
