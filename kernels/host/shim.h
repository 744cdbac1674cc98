// CUDA's words for a C++ compiler, so that the simulated device runs the very same kernels. Included by
// gz.cuh only.
//
// The threads of a block are fibers. They run one at a time and switch only at barriers and warp intrinsics;
// the order in which they run is chosen at launch (shim.cpp). A block whose threads meet no barrier is a
// plain loop.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline, unused))
#define __launch_bounds__(...)
// `used`: threads come back from a barrier to values that others wrote, which an optimiser cannot see.
#define __shared__ static __attribute__((section("gz_shared"), used))

struct gz_dim3 {
    u32 x, y, z;
};
extern __attribute__((visibility("hidden"))) gz_dim3 threadIdx, blockIdx, blockDim, gridDim;
static const i32 warpSize = 32;

enum gz_op : u32 { GZ_SYNCWARP, GZ_SHFL, GZ_BALLOT, GZ_ANY, GZ_ALL, GZ_ACTIVE };
enum gz_vote : u32 { GZ_NONE, GZ_COUNT, GZ_OR, GZ_AND };

// Wait for the block; the votes of all threads, reduced.
i32 gz_host_barrier(gz_vote vote, i32 value, const char* file, i32 line);
// Wait for the lanes of `mask`; what the operation gives this lane. GZ_SHFL reads the value of lane `source`.
u64 gz_host_warp(gz_op op, u32 mask, u64 value, u32 source, const char* file, i32 line);
[[noreturn]] void gz_host_trap(const char* file, i32 line);

#define GZ_HERE const char *file = __builtin_FILE(), i32 line = __builtin_LINE()

static inline void __syncthreads(GZ_HERE) { gz_host_barrier(GZ_NONE, 0, file, line); }
static inline i32 __syncthreads_count(i32 v, GZ_HERE) { return gz_host_barrier(GZ_COUNT, v, file, line); }
static inline i32 __syncthreads_or(i32 v, GZ_HERE) { return gz_host_barrier(GZ_OR, v, file, line); }
static inline i32 __syncthreads_and(i32 v, GZ_HERE) { return gz_host_barrier(GZ_AND, v, file, line); }
static inline void __syncwarp(u32 mask = 0xffffffffu, GZ_HERE) {
    gz_host_warp(GZ_SYNCWARP, mask, 0, 0, file, line);
}
static inline u32 __activemask(GZ_HERE) { return (u32)gz_host_warp(GZ_ACTIVE, 0, 0, 0, file, line); }
static inline u32 __ballot_sync(u32 mask, i32 predicate, GZ_HERE) {
    return (u32)gz_host_warp(GZ_BALLOT, mask, predicate != 0, 0, file, line);
}
static inline i32 __any_sync(u32 mask, i32 predicate, GZ_HERE) {
    return (i32)gz_host_warp(GZ_ANY, mask, predicate != 0, 0, file, line);
}
static inline i32 __all_sync(u32 mask, i32 predicate, GZ_HERE) {
    return (i32)gz_host_warp(GZ_ALL, mask, predicate != 0, 0, file, line);
}
[[noreturn]] static inline void __trap(GZ_HERE) { gz_host_trap(file, line); }

template <class T> static inline T gz_host_shfl(u32 mask, T value, u32 source, const char* file, i32 line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most eight bytes");
    u64 bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = gz_host_warp(GZ_SHFL, mask, bits, source, file, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T> static inline T __shfl_sync(u32 mask, T value, i32 from, i32 width = 32, GZ_HERE) {
    u32 lane = threadIdx.x & 31, segment = lane & ~(u32)(width - 1);
    return gz_host_shfl(mask, value, segment | ((u32)from & (u32)(width - 1)), file, line);
}
template <class T> static inline T __shfl_up_sync(u32 mask, T value, u32 delta, i32 width = 32, GZ_HERE) {
    u32 lane = threadIdx.x & 31, at = lane & (u32)(width - 1);
    return gz_host_shfl(mask, value, delta > at ? lane : lane - delta, file, line);
}
template <class T> static inline T __shfl_down_sync(u32 mask, T value, u32 delta, i32 width = 32, GZ_HERE) {
    u32 lane = threadIdx.x & 31, at = lane & (u32)(width - 1);
    return gz_host_shfl(mask, value, at + delta >= (u32)width ? lane : lane + delta, file, line);
}
template <class T> static inline T __shfl_xor_sync(u32 mask, T value, i32 bits, i32 width = 32, GZ_HERE) {
    u32 lane = threadIdx.x & 31, from = lane ^ (u32)bits, last = lane | (u32)(width - 1);
    return gz_host_shfl(mask, value, from > last ? lane : from, file, line);
}

// One thread runs at a time, so atomics are plain.
template <class T> struct gz_same { typedef T type; };
#define GZ_ATOMIC(name, expression)                                                         \
    template <class T> static inline T name(T* address, typename gz_same<T>::type value) { \
        T old = *address;                                                                   \
        *address = (expression);                                                            \
        return old;                                                                         \
    }
GZ_ATOMIC(atomicAdd, (T)(old + value))
GZ_ATOMIC(atomicSub, (T)(old - value))
GZ_ATOMIC(atomicMin, value < old ? value : old)
GZ_ATOMIC(atomicMax, value > old ? value : old)
GZ_ATOMIC(atomicOr, (T)(old | value))
GZ_ATOMIC(atomicAnd, (T)(old & value))
GZ_ATOMIC(atomicXor, (T)(old ^ value))
GZ_ATOMIC(atomicExch, value)
#undef GZ_ATOMIC
template <class T>
static inline T atomicCAS(T* address, typename gz_same<T>::type expected, typename gz_same<T>::type value) {
    T old = *address;
    if (old == expected) *address = value;
    return old;
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// Intrinsics, with CUDA's results for zero and for large shifts.
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
static inline i32 __popc(u32 v) { return __builtin_popcount(v); }
static inline i32 __popcll(u64 v) { return __builtin_popcountll(v); }
static inline i32 __ffs(i32 v) { return __builtin_ffs(v); }
static inline i32 __ffsll(i64 v) { return __builtin_ffsll(v); }
static inline i32 __clz(i32 v) { return v ? __builtin_clz((u32)v) : 32; }
static inline i32 __clzll(i64 v) { return v ? __builtin_clzll((u64)v) : 64; }
static inline u32 __umulhi(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
static inline u64 __umul64hi(u64 a, u64 b) { return (u64)(((unsigned __int128)a * b) >> 64); }
static inline u32 __brev(u32 v) {
    u32 reversed = 0;
    for (i32 i = 0; i < 32; i++) reversed |= ((v >> i) & 1u) << (31 - i);
    return reversed;
}
static inline u64 __brevll(u64 v) { return ((u64)__brev((u32)v) << 32) | __brev((u32)(v >> 32)); }
static inline u32 __byte_perm(u32 x, u32 y, u32 selector) {
    u64 bytes = ((u64)y << 32) | x;
    u32 picked = 0;
    for (i32 i = 0; i < 4; i++) {
        u32 choice = (selector >> (4 * i)) & 15u, byte = (u32)(bytes >> (8 * (choice & 7u))) & 255u;
        if (choice & 8u) byte = byte & 128u ? 255u : 0u;  // the sign of the byte, eight times
        picked |= byte << (8 * i);
    }
    return picked;
}
static inline u32 __funnelshift_l(u32 lo, u32 hi, u32 n) {
    return (u32)(((((u64)hi << 32) | lo) << (n & 31)) >> 32);
}
static inline u32 __funnelshift_r(u32 lo, u32 hi, u32 n) { return (u32)((((u64)hi << 32) | lo) >> (n & 31)); }

template <class To, class From> static inline To gz_host_bits(From from) {
    To to;
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}
static inline u32 __float_as_uint(f32 v) { return gz_host_bits<u32>(v); }
static inline f32 __uint_as_float(u32 v) { return gz_host_bits<f32>(v); }
static inline i64 __double_as_longlong(f64 v) { return gz_host_bits<i64>(v); }
static inline f64 __longlong_as_double(i64 v) { return gz_host_bits<f64>(v); }
#undef GZ_HERE
