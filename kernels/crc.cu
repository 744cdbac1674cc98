// 32-bit cyclic redundancy checks: CRC-32C (codecs/crc32c.py; RFC 3720) and the CRC-32 of gzip and zlib
// (codecs/crc32.py, codecs/gzip.py; RFC 1952).
//
// gz_crc32c and gz_crc32 verify:
//
//   src + offset[i]:            nbytes[i] covered bytes
//   stored + stored_offset[i]:  their CRC, four bytes, little-endian; stored_offset[i] < 0: it is not checked
//   fault[owner[i]]:            1 where it does not match or nbytes[i] is negative; else left alone
//
// gz_crc32c_append computes:
//
//   before   data + i*pitch: nbytes[i] bytes                     total[i]: anything
//   after    data + i*pitch: nbytes[i] bytes | their CRC-32C     total[i]: nbytes[i] + 4
//
// Where nbytes[i] is negative, or pitch has no room for four bytes more, total[i] is -1 and nothing is
// written.
//
// Block i serves row i with 256 threads; with another number every row is a fault, every total -1. A CRC is
// the remainder of the message as a polynomial over GF(2), so that it is a sum over the parts of the message,
// each times the power of x that lies behind it. The message is cut into units of 16 aligned bytes, dealt out
// to the threads in turn, the last unit to the last thread:
//
//   u0 ... u4     | u5 u6 ... u260 | u261 ... u516 | fewer than 16 bytes
//   t251 ... t255   t0 t1 ... t255   t0 ...   t255   t0
//
// From one unit of a thread to its next it is always 4096 bytes, so each thread keeps four sums, one for each
// word of its units, and takes all four times x^(8·4096) by tables: sum = sum · x^32768 + word. There are no
// units before the first: leading zeros do not change a remainder. In the end the four sums are folded as 16
// bytes, multiplied by what lies between this thread and the last one (weight), added up, and the first
// thread goes on with the bytes that are left. The tables are made by the compiler; what is not in registers
// comes from shared memory.
#include "gz.cuh"

constexpr u32 THREADS = 256, UNIT = 16;
constexpr u32 CRC32C = 0x82F63B78u, CRC32 = 0xEDB88320u;  // bit 31 is x^0, bit 0 is x^31
constexpr u32 ONE = 0x80000000u;

template <u32 POLYNOMIAL> GZ_DEVICE constexpr u32 times_x(u32 a) {
    return (a >> 1) ^ (a & 1 ? POLYNOMIAL : 0);
}

template <u32 POLYNOMIAL> GZ_DEVICE constexpr u32 product(u32 a, u32 b) {
    u32 sum = 0;
    for (i32 bit = 31; bit >= 0; bit--) {
        if (a >> bit & 1) sum ^= b;
        b = times_x<POLYNOMIAL>(b);
    }
    return sum;
}

struct Tables {
    u32 byte[256];     // a byte in the lowest bits, times x^8
    u32 step[4][256];  // byte k of a word, times x^(8·UNIT·THREADS)
    u32 weight[256];   // x^(8·UNIT·(255 - t))
};

template <u32 POLYNOMIAL> GZ_DEVICE constexpr Tables tables() {
    Tables made{};
    u32 power[8] = {};  // of x: from 8·UNIT, each the square of the one before
    u32 x = ONE;
    for (u32 i = 0; i < 8 * UNIT; i++) x = times_x<POLYNOMIAL>(x);
    for (u32 i = 0; i < 8; i++, x = product<POLYNOMIAL>(x, x)) power[i] = x;
    u32 column[32] = {};  // x after eight squares more: 8·UNIT·256, times each power below 32
    for (u32 i = 0; i < 32; i++, x = times_x<POLYNOMIAL>(x)) column[31 - i] = x;
    for (u32 value = 0; value < 256; value++) {
        u32 crc = value, weight = ONE;
        for (u32 bit = 0; bit < 8; bit++) {
            crc = times_x<POLYNOMIAL>(crc);
            for (u32 k = 0; k < 4; k++)
                if (value >> bit & 1) made.step[k][value] ^= column[8 * k + bit];
            if (!(value >> bit & 1)) weight = product<POLYNOMIAL>(weight, power[bit]);
        }
        made.byte[value] = crc, made.weight[value] = weight;
    }
    return made;
}

static __device__ const Tables CRC32C_TABLES = tables<CRC32C>();
static __device__ const Tables CRC32_TABLES = tables<CRC32>();

struct Shared {
    u32 byte[256];
    u32 step[4][256];
    u32 warp_crc[THREADS / 32];
};

// Byte i of the message as it enters the division: the first four are inverted, not preceded by ones.
GZ_DEVICE u32 message_byte(const u8* src, i64 i) { return src[i] ^ (i < 4 ? 255u : 0u); }

// The 16 bytes from byte `at` on, which is aligned; zeros before the message.
GZ_DEVICE u128 message_unit(const u8* src, i64 at) {
    if (at >= 4) return *(const u128*)(src + at);
    u128 unit = {0, 0};
#pragma unroll 1
    for (i32 i = 0; i < 8; i++) {
        if (at + i >= 0) unit.lo |= (u64)message_byte(src, at + i) << 8 * i;
        if (at + 8 + i >= 0) unit.hi |= (u64)message_byte(src, at + 8 + i) << 8 * i;
    }
    return unit;
}

// The CRC of n bytes. Only the first thread is told.
template <u32 POLYNOMIAL> GZ_DEVICE u32 computed(const Tables& tables, Shared& shared, const u8* src, i64 n) {
    u32 t = threadIdx.x;
    shared.byte[t] = tables.byte[t];
    for (i32 k = 0; k < 4; k++) shared.step[k][t] = tables.step[k][t];
    __syncthreads();

    i64 begin = -(i64)(gz_address(src) & (UNIT - 1));  // of the first unit
    i64 units = (n - begin) / UNIT, unit = (i64)t - (-units & (THREADS - 1));
    u32 sum[4] = {0, 0, 0, 0};
    u128 next = {0, 0};
    if (unit >= 0 && unit < units) next = message_unit(src, begin + unit * UNIT);
    while (unit < units) {
        u32 word[4] = {(u32)next.lo, (u32)(next.lo >> 32), (u32)next.hi, (u32)(next.hi >> 32)};
        unit += THREADS;
        if (unit < units) next = message_unit(src, begin + unit * UNIT);  // on its way meanwhile
        for (i32 k = 0; k < 4; k++) {
            u32 a = sum[k];
            sum[k] = word[k] ^ shared.step[0][a & 255] ^ shared.step[1][a >> 8 & 255] ^
                     shared.step[2][a >> 16 & 255] ^ shared.step[3][a >> 24];
        }
    }

    u32 crc = 0;
    for (i32 k = 0; k < 4; k++) {
        crc ^= sum[k];
        for (i32 i = 0; i < 4; i++) crc = (crc >> 8) ^ shared.byte[crc & 255];
    }
    crc = product<POLYNOMIAL>(tables.weight[t], crc);
    for (i32 lanes = 16; lanes; lanes /= 2) crc ^= __shfl_xor_sync(0xffffffffu, crc, lanes);
    if (t % 32 == 0) shared.warp_crc[t / 32] = crc;
    __syncthreads();
    if (t) return 0;
    for (u32 warp = 1; warp < THREADS / 32; warp++) crc ^= shared.warp_crc[warp];
    for (i64 i = max(begin + units * UNIT, (i64)0); i < n; i++)
        crc = (crc >> 8) ^ shared.byte[(crc ^ message_byte(src, i)) & 255];
    if (n < 4) crc ^= 0xFFFFFFFFu >> 8 * n;  // of the ones that it begins with, those behind the message
    return ~crc;
}

template <u32 POLYNOMIAL>
GZ_DEVICE void verify(const Tables& tables, Shared& shared, const u8* src, i64 n, const u8* stored,
                      i32* fault) {
    u32 crc = computed<POLYNOMIAL>(tables, shared, src, n);
    if (threadIdx.x == 0 && crc != gz_load<u32>(stored)) *fault = 1;
}

GZ_KERNEL gz_crc32c(const u8* src, const i64* offset, const i64* nbytes, const u8* stored,
                    const i64* stored_offset, const i32* owner, i32* fault) {
    __shared__ Shared shared;
    i64 row = blockIdx.x, n = nbytes[row], place = stored_offset[row];
    bool sound = n >= 0 && blockDim.x == THREADS;
    if (!sound && threadIdx.x == 0) fault[owner[row]] = 1;
    if (sound && place >= 0)
        verify<CRC32C>(CRC32C_TABLES, shared, src + offset[row], n, stored + place, fault + owner[row]);
}

GZ_KERNEL gz_crc32(const u8* src, const i64* offset, const i64* nbytes, const u8* stored,
                   const i64* stored_offset, const i32* owner, i32* fault) {
    __shared__ Shared shared;
    i64 row = blockIdx.x, n = nbytes[row], place = stored_offset[row];
    bool sound = n >= 0 && blockDim.x == THREADS;
    if (!sound && threadIdx.x == 0) fault[owner[row]] = 1;
    if (sound && place >= 0)
        verify<CRC32>(CRC32_TABLES, shared, src + offset[row], n, stored + place, fault + owner[row]);
}

GZ_KERNEL gz_crc32c_append(u8* data, i64 pitch, const i64* nbytes, i64* total) {
    __shared__ Shared shared;
    i64 row = blockIdx.x, n = nbytes[row];
    bool sound = n >= 0 && n <= pitch - 4 && blockDim.x == THREADS;
    data += row * pitch;
    u32 crc = sound ? computed<CRC32C>(CRC32C_TABLES, shared, data, n) : 0;
    if (threadIdx.x) return;
    if (sound) gz_store<u32>(data + n, crc);
    total[row] = sound ? n + 4 : -1;
}
