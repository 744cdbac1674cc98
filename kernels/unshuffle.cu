// Byte unshuffle, as numcodecs `shuffle` decodes (codecs/shuffle.py).
//
//   before   src + offset[i]:  a0 b0 c0 ...  a1 b1 c1 ...  a2 b2 c2 ...   a plane for each byte of an item
//   after    dst + i*nbytes:   a0 a1 a2  b0 b1 b2  c0 c1 c2 ...
//
// Blocks: chunks × tiles; block b serves tile b % tiles of chunk b / tiles, a run of whole items. Any number
// of threads. A thread takes four items at a time where the planes are aligned for words: four bytes of each
// plane are one word, and the four items are written as words. Else an item at a time. nbytes is a multiple
// of itemsize.
#include "gz.cuh"

template <i32 SIZE> GZ_DEVICE void four_items(const u8* plane, i64 items, u8* dst) {
    u32 in[SIZE];
    for (i32 b = 0; b < SIZE; b++) in[b] = *(const u32*)(plane + b * items);
    if constexpr (SIZE == 2) {  // two items to a word
        *(u32*)dst = __byte_perm(in[0], in[1], 0x5140);
        *(u32*)(dst + 4) = __byte_perm(in[0], in[1], 0x7362);
    } else {
        for (i32 b = 0; b < SIZE; b += 4) {  // four bytes of each of the four items: transpose 4 × 4
            u32 low01 = __byte_perm(in[b], in[b + 1], 0x5140);
            u32 low23 = __byte_perm(in[b + 2], in[b + 3], 0x5140);
            u32 high01 = __byte_perm(in[b], in[b + 1], 0x7362);
            u32 high23 = __byte_perm(in[b + 2], in[b + 3], 0x7362);
            *(u32*)(dst + b) = __byte_perm(low01, low23, 0x5410);
            *(u32*)(dst + SIZE + b) = __byte_perm(low01, low23, 0x7632);
            *(u32*)(dst + 2 * SIZE + b) = __byte_perm(high01, high23, 0x5410);
            *(u32*)(dst + 3 * SIZE + b) = __byte_perm(high01, high23, 0x7632);
        }
    }
}

GZ_KERNEL gz_unshuffle(const u8* src, const i64* offset, u8* dst, i64 nbytes, i32 itemsize, i32 tiles) {
    i64 chunk = blockIdx.x / (u32)tiles, tile = blockIdx.x % (u32)tiles;
    i64 items = itemsize > 0 ? nbytes / itemsize : 0;
    i64 share = ((items + tiles - 1) / tiles + 3) / 4 * 4;  // whole fours, so that every tile starts aligned
    i64 first = min(tile * share, items), last = min(first + share, items);
    src += offset[chunk];
    dst += chunk * nbytes;

    bool aligned = ((gz_address(src) | gz_address(dst) | (u64)items) & 3) == 0;
    if (aligned && (itemsize == 2 || itemsize == 4 || itemsize == 8)) {
        for (i64 k = first + 4 * (i64)threadIdx.x; k < last; k += 4 * (i64)blockDim.x) {
            if (itemsize == 2) four_items<2>(src + k, items, dst + 2 * k);
            if (itemsize == 4) four_items<4>(src + k, items, dst + 4 * k);
            if (itemsize == 8) four_items<8>(src + k, items, dst + 8 * k);
        }
        return;
    }
    for (i64 k = first + threadIdx.x; k < last; k += blockDim.x)
        for (i32 b = 0; b < itemsize; b++) dst[k * itemsize + b] = src[b * items + k];
}
