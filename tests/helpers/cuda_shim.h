// Runs CUDA kernels on the host, one block after the other, for tests.
//
// The threads of a block run on fibres of one OS thread. A fibre runs its CUDA thread until that ends or
// waits at a barrier or warp operation; then another goes on. A fibre whose thread has ended takes the next
// one, so a kernel that never waits needs one fibre. What CUDA leaves undefined is an error here: a barrier
// or a warp operation that not all of its threads reach, a lane outside the mask, a misaligned vector, an atomic
// operation outside all arrays.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define CUDART_INF_F HUGE_VALF

// ------------------------------------------------------------------------------------------- vector types

struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct double2 { double x, y; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace shim {

constexpr int THREADS = 256;
constexpr std::size_t STACK_BYTES = 256 << 10;

enum class State { waiting_to_start, running, at_warp, at_block, done };

struct Thread {
    State state;
    int fibre;
    std::uint64_t value;
    int source;
};

// Lanes of a warp that wait for the others of a mask at an operation. Each lane waits at one at most.
struct Gathering {
    unsigned mask;
    int operation;
    unsigned arrived;
};

struct Warp {
    Gathering gatherings[32];
    int n_gatherings;
};

// Of the compiler: the C library's jumps save more than a switch of fibres needs, and take longer.
using Jump = void*[5];

struct Fibre {
    ucontext_t context;
    Jump jump;
    bool started = false;
    int thread = -1;
};

// Tells the kernel's code from the scheduler's only by a captured call; `body` outlives the launch.
static void (*kernel_call)(const void*);
static const void* kernel_body;

static std::vector<Fibre*> fibres;
static std::vector<int> idle, ready;
static Thread threads[THREADS];
static Warp warps[THREADS / 32];
static int order[THREADS];
static int next_thread, n_done, n_at_block, current;
static Jump scheduler;
static char failure[512];
static std::mutex one_launch;

template <class... A>
[[noreturn]] static void fail(const char* format, A... values) {
    std::snprintf(failure, sizeof failure, format, values...);
    __builtin_longjmp(scheduler, 1);
}

static void set_thread(int fibre, int thread) {
    fibres[fibre]->thread = thread;
    current = thread;
    threadIdx.x = static_cast<unsigned>(thread);
}

static void go_on(int fibre) {
    Fibre& to = *fibres[fibre];
    if (to.started) {
        current = to.thread;
        threadIdx.x = static_cast<unsigned>(to.thread);
        __builtin_longjmp(to.jump, 1);
    }
    to.started = true;
    setcontext(&to.context);
}

[[noreturn]] static void run_another() {
    if (ready.empty()) __builtin_longjmp(scheduler, 1);
    const int fibre = ready.back();
    ready.pop_back();
    go_on(fibre);
    __builtin_unreachable();
}

// Returns when another fibre or the scheduler goes on with this one.
[[gnu::noinline]] static void leave(Fibre& me) {
    if (!__builtin_setjmp(me.jump)) run_another();
}

static void wait() { leave(*fibres[threads[current].fibre]); }

static void fibre_main(int me) {
    for (;;) {
        while (next_thread < THREADS) {
            const int thread = order[next_thread++];
            set_thread(me, thread);
            threads[thread].state = State::running;
            threads[thread].fibre = me;
            kernel_call(kernel_body);
            threads[fibres[me]->thread].state = State::done;
            ++n_done;
        }
        idle.push_back(me);
        leave(*fibres[me]);
    }
}

static int new_fibre() {
    auto* fibre = new Fibre;
    void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = stack;
    fibre->context.uc_stack.ss_size = STACK_BYTES;
    fibre->context.uc_link = nullptr;
    fibres.push_back(fibre);
    const int me = static_cast<int>(fibres.size()) - 1;
    makecontext(&fibre->context, reinterpret_cast<void (*)()>(fibre_main), 1, me);
    return me;
}

[[gnu::noinline]] static void run_block() {
    next_thread = n_done = n_at_block = 0;
    ready.clear();
    for (Thread& thread : threads) thread.state = State::waiting_to_start;
    for (Warp& warp : warps) warp.n_gatherings = 0;
    __builtin_setjmp(scheduler);  // fibres come back here
    if (failure[0]) {             // what hangs in the middle of a thread is thrown away
        for (Fibre* fibre : fibres) {
            munmap(fibre->context.uc_stack.ss_sp, STACK_BYTES);
            delete fibre;
        }
        fibres.clear();
        idle.clear();
        return;
    }
    if (n_done == THREADS) return;
    if (!ready.empty()) run_another();
    if (next_thread < THREADS) {
        int fibre;
        if (idle.empty()) {
            fibre = new_fibre();
        } else {
            fibre = idle.back();
            idle.pop_back();
        }
        go_on(fibre);
    }
    int first = 0;
    while (threads[first].state == State::done) ++first;
    fail("block %u: thread %d waits at a %s that not all of its threads reach (%d of %d have ended)", blockIdx.x, first,
         threads[first].state == State::at_block ? "__syncthreads" : "warp operation", n_done, THREADS);
}

enum Operation { sync, shuffle, ballot };

// Waits for all lanes of the mask and returns the source lane's value, or the ballot.
static std::uint64_t exchange(int operation, unsigned mask, std::uint64_t value, int source) {
    const int me = current, lane = me % 32, warp = me - lane;
    if (!(mask >> lane & 1)) fail("thread %d: lane %d is not in its own mask %08x", me, lane, mask);
    if (operation == shuffle && !(mask >> source & 1)) {
        fail("thread %d: shuffles from lane %d, which is not in the mask %08x", me, source, mask);
    }
    Thread& mine = threads[me];
    mine.state = State::at_warp;
    mine.value = value;
    mine.source = source;
    Warp& gathered = warps[warp / 32];
    Gathering* const end = gathered.gatherings + gathered.n_gatherings;
    Gathering* const here = std::find_if(gathered.gatherings, end, [&](const Gathering& one) {
        return one.mask == mask && one.operation == operation;
    });
    if (here == end) {
        *here = {mask, operation, 0};
        ++gathered.n_gatherings;
    }
    here->arrived |= 1u << lane;
    // One that waits elsewhere may come here later. If it does not, the block ends in an error.
    if (here->arrived != mask) {
        wait();
        return threads[me].value;
    }
    *here = gathered.gatherings[--gathered.n_gatherings];
    Thread* const lanes = threads + warp;
    std::uint64_t values[32], votes = 0;
    for (int l = 0; l < 32; ++l) {
        values[l] = lanes[l].value;
        votes |= static_cast<std::uint64_t>(values[l] != 0) << l;
    }
    votes &= mask;
    for (unsigned left = mask; left;) {
        const int l = 31 - __builtin_clz(left);
        left ^= 1u << l;
        lanes[l].value = operation == ballot ? votes : values[lanes[l].source];
        lanes[l].state = State::running;
        if (l != lane) ready.push_back(lanes[l].fibre);
    }
    return mine.value;
}

template <class T>
static T exchange_value(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>, "what CUDA can shuffle");
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(shuffle, mask, bits, source);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// What Python passes for one parameter.
struct Argument {
    int kind;       // 'p': array or null, else NumPy's kind of a scalar: 'i', 'u', 'f'
    int item_kind;  // NumPy's kind of the array's elements
    long item_bytes;
    long total_bytes;
    void* address;
};

// The arrays of the launch.
static const Argument* arrays;
static std::size_t n_arrays;

// Atomics of what is no array's element are lost, or change other memory, and a value of zero hides it.
template <class T>
static T* in_an_array(T* at) {
    const auto holds = [at](const Argument& one) {
        return one.kind == 'p' && static_cast<void*>(at) >= one.address &&
               reinterpret_cast<char*>(at + 1) <= static_cast<char*>(one.address) + one.total_bytes;
    };
    if (std::none_of(arrays, arrays + n_arrays, holds)) {
        fail("thread %d of block %u: an atomic operation outside all arrays", current, blockIdx.x);
    }
    return at;
}

template <class T>
constexpr bool kind_fits(int kind) {
    if constexpr (std::is_floating_point_v<T>) return kind == 'f';
    return kind == 'i' || kind == 'u';
}

template <class T>
static T take(const char* kernel, const Argument& argument, int place, std::vector<char>& error) {
    const auto report = [&](const char* what) {
        if (!error.empty()) return;
        error.resize(256);
        std::snprintf(error.data(), error.size(), "%s: argument %d %s", kernel, place, what);
    };
    if constexpr (std::is_pointer_v<T>) {
        using Item = std::remove_cv_t<std::remove_pointer_t<T>>;
        if (argument.kind != 'p') {
            report("is a scalar, but the kernel takes a pointer");
        } else if (argument.address == nullptr) {
            return nullptr;
        } else if (reinterpret_cast<std::uintptr_t>(argument.address) % alignof(Item)) {
            report("is not aligned as the kernel's type asks");
        } else if constexpr (std::is_arithmetic_v<Item>) {
            if (argument.item_bytes != sizeof(Item) || !kind_fits<Item>(argument.item_kind)) {
                report("is an array of another type than the kernel's pointer");
            }
        } else if (argument.total_bytes % static_cast<long>(sizeof(Item))) {
            report("is an array that the kernel's struct does not divide");
        }
        return static_cast<T>(argument.address);
    } else {
        T value{};
        if (argument.kind == 'p') {
            report("is an array, but the kernel takes a scalar");
        } else if (!kind_fits<T>(argument.kind) || argument.total_bytes != sizeof(T)) {
            report("is a scalar of another type than the kernel's");
        } else {
            std::memcpy(&value, argument.address, sizeof value);
        }
        return value;
    }
}

template <class... P, std::size_t... I>
static const char* launch_with(void (*kernel)(P...), const char* name, const Argument* arguments, long n_blocks,
                               unsigned long seed, std::index_sequence<I...>) {
    static std::vector<char> error;
    error.clear();
    (void)arguments;
    const std::tuple<P...> values{take<P>(name, arguments[I], static_cast<int>(I) + 1, error)...};
    if (!error.empty()) return error.data();
    const auto body = [&] { std::apply(kernel, values); };
    kernel_call = [](const void* what) { (*static_cast<decltype(body)*>(what))(); };
    kernel_body = &body;
    arrays = arguments;
    n_arrays = sizeof...(P);
    gridDim.x = static_cast<unsigned>(n_blocks);
    blockDim.x = THREADS;
    std::vector<unsigned> blocks(static_cast<std::size_t>(n_blocks));
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::iota(order, order + THREADS, 0);
    if (seed) {
        std::mt19937_64 random(seed);
        std::shuffle(blocks.begin(), blocks.end(), random);
        std::shuffle(order, order + THREADS, random);
    }
    failure[0] = 0;
    for (const unsigned block : blocks) {
        blockIdx.x = block;
        run_block();
        if (failure[0]) {
            error.resize(1024);
            std::snprintf(error.data(), error.size(), "%s: %s", name, failure);
            return error.data();
        }
    }
    return nullptr;
}

// Runs a kernel; returns null or what is wrong. The caller holds the message until the next launch.
template <class... P>
const char* launch(void (*kernel)(P...), const char* name, const Argument* arguments, int n_arguments, long n_blocks,
                   unsigned long seed) {
    if (n_arguments != static_cast<int>(sizeof...(P))) {
        static char error[256];
        std::snprintf(error, sizeof error, "%s: takes %d arguments, got %d", name, static_cast<int>(sizeof...(P)),
                      n_arguments);
        return error;
    }
    const std::lock_guard<std::mutex> lock(one_launch);
    return launch_with(kernel, name, arguments, n_blocks, seed, std::index_sequence_for<P...>{});
}

}  // namespace shim

// ---------------------------------------------------------------------------------- barriers and warps

static inline void __syncthreads() {
    using namespace shim;
    threads[current].state = State::at_block;
    if (++n_at_block < THREADS) {
        wait();
        return;
    }
    n_at_block = 0;
    for (int i = THREADS - 1; i >= 0; --i) {
        Thread& other = threads[order[i]];
        other.state = State::running;
        if (order[i] != current) ready.push_back(other.fibre);
    }
}

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    shim::exchange(shim::sync, mask, 0, shim::current % 32);
}
static inline unsigned __ballot_sync(unsigned mask, int vote) {
    return static_cast<unsigned>(shim::exchange(shim::ballot, mask, vote != 0, shim::current % 32));
}
static inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
static inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = shim::current % 32;
    return shim::exchange_value(mask, value, (lane & ~(width - 1)) + (source & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32) {
    const int lane = shim::current % 32, from = lane ^ flip;
    return shim::exchange_value(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = shim::current % 32, from = lane + static_cast<int>(by);
    return shim::exchange_value(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = shim::current % 32, from = lane - static_cast<int>(by);
    return shim::exchange_value(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}

// No atomicAdd of floats: results must not depend on the order of threads.
static inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    return std::exchange(*shim::in_an_array(at), *at + value);
}
static inline unsigned atomicAdd(unsigned* at, unsigned value) {
    return std::exchange(*shim::in_an_array(at), *at + value);
}
static inline int atomicAdd(int* at, int value) { return std::exchange(*shim::in_an_array(at), *at + value); }
template <class T>
static inline T atomicMax(T* at, T value) { return std::exchange(*shim::in_an_array(at), std::max(*at, value)); }
template <class T>
static inline T atomicMin(T* at, T value) { return std::exchange(*shim::in_an_array(at), std::min(*at, value)); }
template <class T>
static inline T atomicExch(T* at, T value) { return std::exchange(*shim::in_an_array(at), value); }
template <class T>
static inline T atomicCAS(T* at, T expected, T value) {
    return std::exchange(*shim::in_an_array(at), *at == expected ? value : *at);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// ----------------------------------------------------------------------------------------- arithmetic

template <class T>
static inline T __ldg(const T* at) {
    if (reinterpret_cast<std::uintptr_t>(at) % alignof(T)) shim::fail("a load of %d bytes is misaligned", (int)sizeof(T));
    return *at;
}
template <class T>
static inline T __ldcs(const T* at) { return __ldg(at); }
template <class T>
static inline void __stcs(T* at, T value) { *at = value; }

static inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline long long __float2ll_rn(float x) { return std::llrint(x); }
static inline long long __double2ll_rn(double x) { return std::llrint(x); }
static inline int __float2int_rn(float x) { return static_cast<int>(std::lrint(x)); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
template <class A, class B>
static inline std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B>
static inline std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
