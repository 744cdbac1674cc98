// Every word of CUDA that the simulated device speaks, once (tests/contract/test_device.py).
#include "gz.cuh"

// 24 results a thread, [24, threads].
GZ_KERNEL gz_words(const u32* src, u64* dst) {
    u32 v = src[threadIdx.x], lane = threadIdx.x & 31, n = 0;
    u64 out[24];
    out[n++] = __shfl_sync(0xffffffffu, v, 5);
    out[n++] = __shfl_sync(0xffffffffu, v, (i32)lane + 3, 8);
    out[n++] = __shfl_up_sync(0xffffffffu, v, 2);
    out[n++] = __shfl_down_sync(0xffffffffu, (u64)v << 8, 3, 16);
    out[n++] = __shfl_xor_sync(0xffffffffu, v, 9);
    out[n++] = __ballot_sync(0xffffffffu, (i32)(v & 1));
    out[n++] = (u64)__any_sync(0xffffffffu, lane == 3) * 2 + (u64)__all_sync(0xffffffffu, lane == 3);
    out[n++] = lane < 7 ? __ballot_sync(0x7fu, (i32)(v & 2)) : __ballot_sync(0xffffff80u, (i32)(v & 2));
    out[n++] = (u64)__syncthreads_count((i32)(v & 4));
    out[n++] = (u64)__syncthreads_or(threadIdx.x == 1) * 2 + (u64)__syncthreads_and(threadIdx.x == 1);
    out[n++] = (u64)__popc(v) * 1000 + (u64)__popcll(((u64)v << 32) | v);
    out[n++] = (u64)__ffs((i32)(v & 0xfff0u)) * 1000 + (u64)__ffsll((i64)v << 32);
    out[n++] = (u64)__clz((i32)(v >> 3)) * 1000 + (u64)__clzll((i64)v);
    out[n++] = __brev(v);
    out[n++] = __brevll(v);
    out[n++] = __byte_perm(v, ~v, 0x6317);
    out[n++] = __byte_perm(v, ~v, 0x8C08);
    out[n++] = __funnelshift_l(v, ~v, v & 31) ^ ((u64)__funnelshift_r(v, ~v, v & 31) << 32);
    out[n++] = __umulhi(v, ~v);
    out[n++] = __umul64hi((u64)v << 32, ((u64)v << 32) | v);
    out[n++] = __float_as_uint(__uint_as_float(v)) + (u64)__double_as_longlong(__longlong_as_double((i64)v << 20));
    out[n++] = min(v, 1u << 31) ^ (max((i64)v, (i64)1 << 31) << 32);
    if (lane & 1) n += (u32)__popc(__activemask()) > 16;  // at most the lanes that are here
    out[n++] = __ldg(src + lane);
    __syncwarp();
    out[n++] = gridDim.x * 1000000u + blockDim.x * 1000u + (u32)warpSize;
    for (u32 i = 0; i < 24; i++) dst[i * blockDim.x + threadIdx.x] = out[i];
}

// Atomics of all threads on eight numbers.
GZ_KERNEL gz_words_atomic(const u32* src, u32* dst, u64* wide) {
    u32 v = src[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(&dst[0], v);
    atomicSub(&dst[1], v);
    atomicMin(&dst[2], v);
    atomicMax(&dst[3], v);
    atomicOr(&dst[4], v);
    atomicAnd(&dst[5], v);
    atomicXor(&dst[6], v);
    atomicAdd(wide, (u64)v << 20);
    if (atomicCAS(&dst[7], 0u, 1u) == 0) atomicExch(wide + 1, 77ull);
}
