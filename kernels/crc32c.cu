// Verifies CRC-32C checksums (codecs/crc32c.py; RFC 3720).
//
//   src + offset[i]:  nbytes[i] covered bytes | their CRC, four bytes, little-endian
//   fault[i]:         1 where it does not match or nbytes[i] is negative; else left alone
//
// Block i serves chunk i, with up to 1024 threads. The covered bytes are cut into parts of equal length, the
// last one ending where they end, so that the first may be short or empty: leading zeros do not change a CRC
// that starts at zero. Each thread takes the CRC of its part; pairs of parts are then joined, since
//
//   crc(A B) = crc(A) · x^(8·|B|) + crc(B)      polynomials over GF(2), modulo the CRC's own
//
// and |B| is the same for all pairs of one step. The thread that has the first byte starts from the CRC's
// initial ones.
#include "gz.cuh"

constexpr u32 POLYNOMIAL = 0x82F63B78u;  // bit 31 is x^0, bit 0 is x^31
constexpr u32 ONE = 0x80000000u, X8 = 0x00800000u;

GZ_DEVICE u32 product(u32 a, u32 b) {
    u32 sum = 0;
    for (u32 bit = ONE; bit; bit >>= 1) {
        if (a & bit) sum ^= b;
        b = (b >> 1) ^ (b & 1 ? POLYNOMIAL : 0);  // times x
    }
    return sum;
}

GZ_KERNEL gz_crc32c(const u8* src, const i64* offset, const i64* nbytes, i32* fault) {
    __shared__ u32 table[256];
    __shared__ u32 part_crc[1024];
    i64 n = nbytes[blockIdx.x];
    i32 parts = (i32)blockDim.x, t = (i32)threadIdx.x;
    for (u32 byte = threadIdx.x; byte < 256; byte += blockDim.x) {
        u32 crc = byte;
        for (i32 bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? POLYNOMIAL : 0);
        table[byte] = crc;
    }
    __syncthreads();

    src += offset[blockIdx.x];
    i64 length = n > 0 ? (n + parts - 1) / parts : 0;
    i64 end = n - (parts - 1 - t) * length, at = end - length;
    u32 crc = at <= 0 && end > 0 ? 0xFFFFFFFFu : 0;
    at = max(at, (i64)0);
    for (; at < end && (gz_address(src + at) & 3); at++) crc = (crc >> 8) ^ table[(crc ^ src[at]) & 255];
    for (; at + 4 <= end; at += 4) {
        crc ^= *(const u32*)(src + at);
        for (i32 byte = 0; byte < 4; byte++) crc = (crc >> 8) ^ table[crc & 255];
    }
    for (; at < end; at++) crc = (crc >> 8) ^ table[(crc ^ src[at]) & 255];
    part_crc[t] = crc;

    u32 shift = ONE;  // x^(8·length), by squaring from the highest bit down; every thread the same
    for (i32 bit = 62; bit >= 0; bit--) {
        if (shift != ONE) shift = product(shift, shift);
        if (length >> bit & 1) shift = product(shift, X8);
    }
    for (i32 step = 1; step < parts; step *= 2) {
        __syncthreads();
        i32 j = parts - 1 - t;  // counted from the end: part j takes in part j + step, which lies before it
        if (j % (2 * step) == 0 && j + step < parts) part_crc[t] ^= product(part_crc[t - step], shift);
        shift = product(shift, shift);
    }
    if (t == parts - 1) {
        bool match = n >= 0;
        if (match) match = gz_load<u32>(src + n) == (n ? ~part_crc[t] : 0);
        if (!match) fault[blockIdx.x] = 1;
    }
}
