// Values of few bits, put back into whole bytes (codecs/packbits.py).
//
//   before   src + offset[i]:  counter | value 0 | value 1 | ... | zeros, counter of them    `bits` bits each
//   after    dst + i*pitch:    value 0 | value 1 | ...                                       `size` bytes each
//   fault[i]:                  1 where the counter is not `padding`; else left alone
//
// Values begin `lead` bytes into a chunk, and the counter, one byte, lies at byte `counter` of it; -1: there
// is none. Values fill each byte from its lowest bit on, or, if `highest` (then they have one bit), from its
// highest. Of a value in memory they are the bits from `first` on; if `is_signed` the highest of them fills
// the bits up to `top`, and all other bits are zero. With `swap` the bytes of a value are written in reverse.
//
// Blocks: chunks × tiles; block b serves tile b % tiles of chunk b / tiles. Any number of threads. A thread
// makes 16 bytes at a time, so that it stores them at once; what it reads are the same few bytes again and
// again. pitch is a multiple of 16, size is 1, 2, 4 or 8.
#include "gz.cuh"

// `bits` bits, 1 to 64, from bit `at` on.
GZ_DEVICE u64 bits_at(const u8* src, i64 at, u32 bits) {
    const u8* p = src + (at >> 3);
    u32 shift = (u32)at & 7;
    u64 value = *p >> shift;
    for (u32 have = 8 - shift; have < bits; have += 8) value |= (u64)*++p << have;
    return value & ~0ull >> (64 - bits);
}

GZ_DEVICE u64 in_reverse(u64 value, i32 size) { return gz_reversed(value) >> (64 - 8 * size); }

GZ_KERNEL gz_unpackbits(const u8* src, const i64* offset, u8* dst, i32* fault, i64 count, i64 pitch,
                        i64 counter, i32 padding, i32 lead, i32 size, i32 bits, i32 first, i32 top,
                        i32 is_signed, i32 highest, i32 swap, i32 tiles) {
    i64 chunk = blockIdx.x / (u32)tiles, tile = blockIdx.x % (u32)tiles;
    i64 units = (count * size + 15) / 16, share = (units + tiles - 1) / tiles;
    i64 last = min((tile + 1) * share, units);
    src += offset[chunk];
    dst += chunk * pitch;
    if (tile == 0 && threadIdx.x == 0 && counter >= 0 && src[counter] != padding) fault[chunk] = 1;
    src += lead;

    u64 kept = ~0ull >> (64 - top);
    for (i64 unit = tile * share + threadIdx.x; unit < last; unit += blockDim.x) {
        u64 half[2] = {0, 0};
        i64 k = unit * (16 / size);
        for (i32 h = 0; h < 2; h++)
            for (i32 shift = 0; shift < 64 && k < count; shift += 8 * size, k++) {
                u64 value = bits_at(src, highest ? k ^ 7 : k * bits, (u32)bits);
                if (is_signed && value >> (bits - 1)) value |= ~0ull << (bits - 1);
                value = value << first & kept;
                half[h] |= (swap ? in_reverse(value, size) : value) << shift;
            }
        if (unit * 16 + 16 <= count * size)
            *(u128*)(dst + unit * 16) = u128{half[0], half[1]};
        else
            for (i64 i = unit * 16; i < count * size; i++) dst[i] = (u8)(half[i >> 3 & 1] >> 8 * (i & 7));
    }
}
