// Verifies Adler-32 checksums (numcodecs `adler32`, and the end of a zlib stream; RFC 1950).
//
//   src + offset[i]:            nbytes[i] covered bytes
//   stored + stored_offset[i]:  their checksum, four bytes, big-endian if `big`, else little-endian
//   fault[i]:                   1 where it does not match or nbytes[i] is negative; else left alone
//
// Block i serves chunk i, with up to 1024 threads. With bytes d[0..n), modulo 65521
//
//   low  = 1 + sum d[k]          high = n + sum (n - k)·d[k]
//
// Each thread sums one part, of bytes next to each other; parts A and B are joined as
// low = lowA + lowB, high = highA + |B|·lowA + highB.
#include "gz.cuh"

constexpr u64 MODULUS = 65521;

GZ_KERNEL gz_adler32(const u8* src, const i64* offset, const i64* nbytes, const u8* stored,
                     const i64* stored_offset, i32 big, i32* fault) {
    __shared__ u64 low[1024];
    __shared__ u64 high[1024];
    i64 n = nbytes[blockIdx.x];
    i32 parts = (i32)blockDim.x, t = (i32)threadIdx.x;
    src += offset[blockIdx.x];
    i64 length = n > 0 ? (n + parts - 1) / parts : 0;
    i64 at = min(t * length, max(n, (i64)0)), end = min(at + length, max(n, (i64)0));
    i64 behind = max(n, (i64)0) - end;
    u64 sum = 0, weighted = 0;
    while (at < end) {  // 2^20 bytes at most between reductions: 255·2^40 and the carried 65520·2^20 fit
        for (i64 stop = min(at + (1 << 20), end); at < stop; at++) {
            sum += src[at];
            weighted += sum;
        }
        sum %= MODULUS, weighted %= MODULUS;
    }
    low[t] = sum;
    high[t] = (weighted + sum * ((u64)behind % MODULUS)) % MODULUS;
    for (i32 step = 1; step < parts; step *= 2) {
        __syncthreads();
        if (t % (2 * step) == 0 && t + step < parts) low[t] += low[t + step], high[t] += high[t + step];
    }
    if (t == 0) {
        bool match = n >= 0;
        if (match) {
            u32 computed = (u32)((high[0] + (u64)n) % MODULUS) << 16 | (u32)((low[0] + 1) % MODULUS);
            u32 expected = gz_load<u32>(stored + stored_offset[blockIdx.x]);
            match = computed == (big ? gz_reversed(expected) : expected);
        }
        if (!match) fault[blockIdx.x] = 1;
    }
}
