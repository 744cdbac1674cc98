// Verifies Adler-32 checksums (codecs/adler32.py, and the end of a zlib stream; RFC 1950).
//
//   src + offset[i]:            nbytes[i] covered bytes
//   stored + stored_offset[i]:  their checksum, four bytes, big-endian if `big`, else little-endian;
//                               stored_offset[i] < 0: it is not checked
//   fault[owner[i]]:            1 where it does not match or nbytes[i] is negative; else left alone
//
// With bytes d[0..n), modulo 65521:   low = 1 + sum d[k]     high = n + sum (n - k)·d[k]
//
// Block i serves row i, with whole warps, up to 32 of them. The threads take units of 16 aligned bytes in
// turn, so that from one unit of a thread to its next it is always the same `stride`. With s the sum of a
// unit's bytes and `inner` the sum of its bytes times their places in it, a thread's units at p[0] < p[1] <
// ... < p[last] give
//
//   sum (n - p[u])·s[u] - inner[u]  =  (n - p[last])·sum s[u] + stride·(sum of all sums before) - sum inner[u]
#include "gz.cuh"

constexpr u32 MODULUS = 65521, UNIT = 16;
constexpr u32 ROUNDS = 1 << 12;  // between reductions: 2^12 · 255 · 120 is less than 2^32

// The 16 bytes from byte `at` on, which is aligned; zeros outside of the n bytes that are covered.
GZ_DEVICE u128 covered_unit(const u8* src, i64 at, i64 n) {
    if (at >= 0 && at + UNIT <= n) return *(const u128*)(src + at);
    u128 unit = {0, 0};
#pragma unroll 1
    for (i32 i = 0; i < 8; i++) {
        if (at + i >= 0 && at + i < n) unit.lo |= (u64)src[at + i] << 8 * i;
        if (at + 8 + i >= 0 && at + 8 + i < n) unit.hi |= (u64)src[at + 8 + i] << 8 * i;
    }
    return unit;
}

GZ_DEVICE u32 both_halves(u32 v) { return (v & 0xFFFF) + (v >> 16); }

GZ_DEVICE u32 warp_total(u32 value) {
    for (i32 lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

GZ_KERNEL gz_adler32(const u8* src, const i64* offset, const i64* nbytes, const u8* stored,
                     const i64* stored_offset, const i32* owner, i32* fault, i32 big) {
    __shared__ u32 warp_low[32];
    __shared__ u32 warp_high[32];
    i64 n = nbytes[blockIdx.x], place = stored_offset[blockIdx.x];
    u32 t = threadIdx.x;
    if (n < 0 || place < 0) {  // the whole block
        if (n < 0 && t == 0) fault[owner[blockIdx.x]] = 1;
        return;
    }
    src += offset[blockIdx.x];
    i64 begin = -(i64)(gz_address(src) & (UNIT - 1));  // of the first unit
    i64 at = begin + UNIT * (i64)t, stride = UNIT * (i64)blockDim.x;
    u32 sum = 0, inner = 0;
    u64 before = 0;
    u128 next = {0, 0};
    if (at < n) next = covered_unit(src, at, n);
    for (u32 round = 1; at < n; round++) {
        u32 word[4] = {(u32)next.lo, (u32)(next.lo >> 32), (u32)next.hi, (u32)(next.hi >> 32)};
        at += stride;
        if (at < n) next = covered_unit(src, at, n);  // on its way meanwhile
        u32 even = 0, odd = 0, words = 0;             // two sums of 16 bits each
        for (u32 k = 0; k < 4; k++) {
            u32 e = word[k] & 0x00FF00FF, o = word[k] >> 8 & 0x00FF00FF;
            even += e, odd += o, words += k * (e + o);
        }
        before += sum;
        sum += both_halves(even + odd);
        inner += 4 * both_halves(words) + (odd & 0xFFFF) + 2 * (even >> 16) + 3 * (odd >> 16);
        if (round % ROUNDS == 0) sum %= MODULUS, inner %= MODULUS, before %= MODULUS;
    }
    u64 behind = (u64)(n - at + stride) % MODULUS;  // as seen from the last unit's begin
    u32 low = sum % MODULUS;
    u64 all = behind * low + (u64)stride * (before % MODULUS) + MODULUS - inner % MODULUS;
    u32 high = (u32)(all % MODULUS);
    low = warp_total(low), high = warp_total(high);
    if (t % 32 == 0) warp_low[t / 32] = low, warp_high[t / 32] = high;
    __syncthreads();
    if (t) return;
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) low += warp_low[warp], high += warp_high[warp];
    u32 computed = (u32)((high + (u64)n) % MODULUS) << 16 | (low + 1) % MODULUS;
    u32 expected = gz_load<u32>(stored + place);
    if (computed != (big ? gz_reversed(expected) : expected)) fault[owner[blockIdx.x]] = 1;
}
