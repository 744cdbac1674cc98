// Verifies Fletcher-32 checksums as HDF5 computes them (codecs/fletcher32.py; HDF5's H5_checksum_fletcher32).
//
//   src + offset[i]:            nbytes[i] covered bytes, as 16-bit words, the higher byte first; an odd one at
//                               the end is a word with a zero behind it
//   stored + stored_offset[i]:  their checksum, four bytes, little-endian; stored_offset[i] < 0: not checked
//   fault[owner[i]]:            1 where it does not match or nbytes[i] is negative; else left alone
//
// With words w[0..n), modulo 65535, where a sum that is not zero but a multiple of that is 65535:
//
//   low = sum w[k]     high = sum (n - k)·w[k]
//
// Block i serves row i, with whole warps, up to 32 of them. The threads take units of 8 words in turn and sum
// them as in adler32.cu.
#include "gz.cuh"

constexpr u32 MODULUS = 65535, UNIT = 8;  // words
constexpr u32 ROUNDS = 1 << 10;           // between reductions: 2^10 · 65535 · 28 is less than 2^32

// The 16 bytes from byte `at` on; zeros behind the n bytes that are covered.
GZ_DEVICE u128 covered_unit(const u8* src, i64 at, i64 n, bool aligned) {
    if (aligned && at + 2 * UNIT <= n) return *(const u128*)(src + at);
    u128 unit = {0, 0};
#pragma unroll 1
    for (i32 i = 0; i < 8; i++) {
        if (at + i < n) unit.lo |= (u64)src[at + i] << 8 * i;
        if (at + 8 + i < n) unit.hi |= (u64)src[at + 8 + i] << 8 * i;
    }
    return unit;
}

// Congruent, and zero only for zero.
GZ_DEVICE u32 reduced(u32 sum) { return sum ? (sum - 1) % MODULUS + 1 : 0; }

GZ_DEVICE u32 warp_total(u32 value) {
    for (i32 lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

GZ_KERNEL gz_fletcher32(const u8* src, const i64* offset, const i64* nbytes, const u8* stored,
                        const i64* stored_offset, const i32* owner, i32* fault) {
    __shared__ u32 warp_low[32];
    __shared__ u32 warp_high[32];
    i64 n = nbytes[blockIdx.x], place = stored_offset[blockIdx.x];
    u32 t = threadIdx.x;
    if (n < 0 || place < 0) {  // the whole block
        if (n < 0 && t == 0) fault[owner[blockIdx.x]] = 1;
        return;
    }
    src += offset[blockIdx.x];
    bool aligned = (gz_address(src) & 15) == 0;
    i64 words = (n + 1) / 2, at = UNIT * (i64)t, stride = UNIT * (i64)blockDim.x;
    u32 sum = 0, inner = 0;
    u64 before = 0;
    u128 next = {0, 0};
    if (at < words) next = covered_unit(src, 2 * at, n, aligned);
    for (u32 round = 1; at < words; round++) {
        u32 pair[4] = {(u32)next.lo, (u32)(next.lo >> 32), (u32)next.hi, (u32)(next.hi >> 32)};
        at += stride;
        if (at < words) next = covered_unit(src, 2 * at, n, aligned);  // on its way meanwhile
        before += sum;
        for (u32 k = 0; k < 4; k++) {
            u32 first = (pair[k] & 0xFF) << 8 | (pair[k] >> 8 & 0xFF);
            u32 second = (pair[k] >> 8 & 0xFF00) | pair[k] >> 24;
            sum += first + second;
            inner += 2 * k * (first + second) + second;
        }
        if (round % ROUNDS == 0) sum = reduced(sum), inner %= MODULUS, before %= MODULUS;
    }
    u64 behind = (u64)(words - at + stride) % MODULUS;  // as seen from the last unit's begin
    u32 low = reduced(sum);
    u64 all = behind * low + (u64)stride * (before % MODULUS) + MODULUS - inner % MODULUS;
    u32 high = (u32)(all % MODULUS);
    low = warp_total(low), high = warp_total(high);
    if (t % 32 == 0) warp_low[t / 32] = low, warp_high[t / 32] = high;
    __syncthreads();
    if (t) return;
    for (u32 warp = 1; warp < blockDim.x / 32; warp++) low += warp_low[warp], high += warp_high[warp];
    high = high % MODULUS == 0 && low ? MODULUS : high % MODULUS;
    if ((high << 16 | reduced(low)) != gz_load<u32>(stored + place)) fault[owner[blockIdx.x]] = 1;
}
