// Kernels that are wrong on purpose: the simulated device has to find each of them (tests/contract/test_device.py).
#include "gz.cuh"

// Sums its block's values, with a barrier missing between the writes and the reads.
GZ_KERNEL gz_wrong_no_barrier(const u32* src, u32* dst) {
    __shared__ u32 values[256];
    values[threadIdx.x] = src[threadIdx.x];
    u32 sum = 0;
    if (threadIdx.x == 0)
        for (u32 i = 0; i < blockDim.x; i++) sum += values[i];
    if (threadIdx.x == 0) dst[0] = sum;
}

// The same mistake the other way round, which the reversed order forgives.
GZ_KERNEL gz_wrong_no_barrier_reversed(const u32* src, u32* dst) {
    __shared__ u32 values[256];
    values[threadIdx.x] = src[threadIdx.x];
    u32 sum = 0;
    if (threadIdx.x == blockDim.x - 1)
        for (u32 i = 0; i < blockDim.x; i++) sum += values[i];
    if (threadIdx.x == blockDim.x - 1) dst[0] = sum;
}

// Half of the block does not come.
GZ_KERNEL gz_wrong_divergent(i32* dst) {
    if (threadIdx.x < blockDim.x / 2) __syncthreads();
    dst[threadIdx.x] = 1;
}

// One thread has left.
GZ_KERNEL gz_wrong_early_return(i32* dst) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    dst[threadIdx.x] = 1;
}

// Two barriers that are not the same.
GZ_KERNEL gz_wrong_two_barriers(i32* dst) {
    if (threadIdx.x & 1)
        __syncthreads();
    else
        __syncthreads();
    dst[threadIdx.x] = 1;
}

GZ_KERNEL gz_wrong_write(u8* dst, i64 at) {
    if (threadIdx.x == 0) dst[at] = 1;
}

GZ_KERNEL gz_wrong_read(const u8* src, u8* dst, i64 at) {
    if (threadIdx.x == 0) dst[0] = src[at];
}

// Expects of shared memory what the block before left there.
GZ_KERNEL gz_wrong_leftover(i32* dst) {
    __shared__ i32 count;
    if (blockIdx.x == 0) count = 0;
    __syncthreads();
    if (threadIdx.x == 0) dst[blockIdx.x] = ++count;
}

// Lanes of half a warp shuffle with all of it.
GZ_KERNEL gz_wrong_lanes(i32* dst) {
    i32 value = 0;
    if (threadIdx.x < 16) value = __shfl_sync(0xffffffffu, (i32)threadIdx.x, 3);
    __syncthreads();
    dst[threadIdx.x] = value;
}

// A lane that its own mask leaves out.
GZ_KERNEL gz_wrong_mask(i32* dst) { dst[threadIdx.x] = __any_sync(1u, 1); }

GZ_KERNEL gz_wrong_shift(i32* dst, i32 by) { dst[threadIdx.x] = 1 << by; }

GZ_KERNEL gz_wrong_trap(i32* dst) {
    if (threadIdx.x == 7) __trap();
    dst[threadIdx.x] = 1;
}
