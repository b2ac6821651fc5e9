// The types of PTX, and arithmetic that C++ leaves undefined or does otherwise.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace ptx {

using s32 = std::int32_t;
using u32 = std::uint32_t;
using b32 = std::uint32_t;
using s64 = std::int64_t;
using u64 = std::uint64_t;
using b64 = std::uint64_t;
using f32 = float;
using f64 = double;
using pred = bool;

// A register of any type.
union Slot {
    ptx::s32 s32;
    ptx::u32 u32;
    ptx::b32 b32;
    ptx::s64 s64;
    ptx::u64 u64;
    ptx::b64 b64;
    ptx::f32 f32;
    ptx::f64 f64;
    ptx::pred pred;
};

// As encode.py writes it: numbers of registers and of an operation.
struct Instruction {
    ptx::s32 operation;
    ptx::s32 guard, wanted;  // -1: always executed
    ptx::s32 to[4], from[5];
    ptx::s32 mask;
    ptx::s32 bytes, count;  // of an access to memory
    ptx::s32 shared, constant, is_signed;
    ptx::s64 offset;
};

// As report.py has them.
enum class Wrong : s32 {
    nothing, out_of_bounds, misaligned, race, constant, uninitialized, not_in_own_mask, source_not_in_mask, stuck,
    other_barrier, division_by_zero,
    undefined,
};

// What is wrong, and where; report.py makes a message of it.
struct Fault {
    Wrong wrong;
    s32 instruction, other;  // -1: none
    s32 thread;
    s64 block;
    u64 detail;
};

[[noreturn]] inline void fail(Wrong wrong, s32 other = -1, u64 detail = 0) { throw Fault{wrong, -1, other, 0, 0, detail}; }

template <class T>
T quotient(T a, T b) {
    if (b == 0) fail(Wrong::division_by_zero);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return static_cast<T>(0 - static_cast<u64>(a));
    return a / b;
}

template <class T>
T remainder(T a, T b) {
    if (b == 0) fail(Wrong::division_by_zero);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return a % b;
}

// Shifts by the width or more leave zeros, or copies of the sign.
template <class T>
T shifted_left(T a, u32 by) {
    return by < 8 * sizeof(T) ? a << by : 0;
}

template <class T>
T shifted_right(T a, u32 by) {
    constexpr u32 last = 8 * sizeof(T) - 1;
    if (by > last) return std::is_signed_v<T> ? a >> last : 0;
    return a >> by;
}

inline u32 reversed(u32 bits) {
    u32 turned = 0;
    for (int i = 0; i < 32; ++i) turned |= (bits >> i & 1) << (31 - i);
    return turned;
}

// b with `length` of its bits from `start` on replaced by those of a.
inline u64 inserted(u64 a, u64 b, u32 start, u32 length) {
    start &= 0xff;
    length &= 0xff;
    const u64 mask = shifted_left(length < 64 ? (u64{1} << length) - 1 : ~u64{0}, start);
    return (b & ~mask) | (shifted_left(a, start) & mask);
}

inline f32 flushed(f32 x) { return std::fabs(x) < std::numeric_limits<f32>::min() ? std::copysign(0.0f, x) : x; }

template <class T>
bool unordered(T a, T b) {
    return a != a || b != b;
}

// The other operand if one is not a number; -0 is less than +0.
template <class T>
T smaller(T a, T b) {
    if (a == b) return std::signbit(a) ? a : b;
    return std::fmin(a, b);
}

template <class T>
T larger(T a, T b) {
    if (a == b) return std::signbit(a) ? b : a;
    return std::fmax(a, b);
}

// div.approx is fast because it is wrong for divisors beyond 2^126.
inline f32 fast_quotient(f32 a, f32 b) {
    return std::fabs(b) > 0x1p126f && std::isfinite(b) ? a * std::copysign(0.0f, b) : a / b;
}

// rcp.approx.ftz.f64 reads and writes the upper half of the bits only.
inline f64 upper_half(f64 x) {
    u64 bits;
    std::memcpy(&bits, &x, 8);
    bits &= 0xffffffff00000000;
    std::memcpy(&x, &bits, 8);
    return std::fabs(x) < std::numeric_limits<f64>::min() ? std::copysign(0.0, x) : x;
}

inline f64 rough_reciprocal(f64 x) { return std::isnan(x) ? x : upper_half(1.0 / upper_half(x)); }

// An integer within the limits of T. What is not a number becomes 0 from f32 to 32 bits, else the highest bit.
template <class T, class X>
T held(X x) {
    using Limits = std::numeric_limits<T>;
    if (x != x) return sizeof(T) + sizeof(X) == 8 ? T{0} : static_cast<T>(u64{1} << (8 * sizeof(T) - 1));
    if (x <= static_cast<X>(Limits::min())) return Limits::min();
    if (x >= static_cast<X>(Limits::max())) return Limits::max();
    return static_cast<T>(x);
}

}  // namespace ptx
