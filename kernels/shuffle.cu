// Bytes or bits of a chunk sorted by their place in an item, as c-blosc 1 and numcodecs `shuffle` do
// (codecs/planes.py). kernels/unshuffle.cu is the way back.
//
//   before   src + i*src_pitch: a0 a1 a2  b0 b1 b2  c0 c1 c2 ...    chunk i: items of typesize bytes
//   after    dst + i*dst_pitch: chunk i, in blocks of `blocksize` bytes, each shuffled by itself
//     bytes    a0 b0 c0 ...  a1 b1 c1 ...  a2 b2 c2 ...    a plane for each byte of an item
//     bits     bit 0 of a0 b0 c0 ... | bit 1 of them | ... | bit 0 of a1 b1 c1 ...    eight items a byte
//
// kind: 1 bytes, 2 bits, else none. typesize: 1 to 255. The last block of a chunk ends where its nbytes end.
// What is left behind the last whole item of a block is as it is, and so is a whole block of bits whose items
// are no multiple of eight.
//
// Blocks: chunks × tiles, of 256 threads; block b serves chunk b / tiles. Any number of tiles is right: those
// of a chunk are dealt out in turn. A tile is `width` whole items of a block, and with the last of them what
// is left. With this number, which is that of codecs/planes.py, each block of threads has one:
//
//   width = max(TILE / typesize / 64 · 64, 64)     tiles of a block = max(⌈blocksize / typesize / width⌉, 1)
//   tiles = ⌈nbytes / blocksize⌉ · tiles of a block
//
// A thread reads 64 bytes, 16 at a time and all before it waits, turns items into words of planes, and puts
// those into shared memory. Planes of bytes become planes of bits there: a thread takes 32 bytes of one,
// transposes them in registers, and when all have done so puts them back into the same plane's place. Then
// planes are written 16 aligned bytes at a time, wherever they begin. Byte by byte are read items of other
// than 1, 2, 4, 8 or 16 bytes, the last few of a tile, and blocks that begin at no multiple of 16.
#include "gz.cuh"

constexpr u32 THREADS = 256;
constexpr u32 TILE = 16384;  // bytes of items in shared memory, as codecs/planes.py counts
constexpr u32 REST = 256;    // and those behind the last item, of a block that stays as it is

// The part of a chunk that a block of threads takes at a time.
struct Tile {
    u64 start;        // where its block begins in the chunk
    u64 from, to;     // in the block: where its items begin, and what they become
    u64 items;        // of the block, which is how far apart its planes are
    u32 count, rest;  // the tile's items, and bytes behind the block's last one
    u32 kind, typesize, width;
};

// Any numbers. Division of 32 bits is several times as fast as of 64.
GZ_DEVICE u64 divided(u64 value, u64 divisor) {
    return (value | divisor) >> 32 ? value / divisor : (u32)value / (u32)divisor;
}

// ---- to shared memory

// Four items of SIZE bytes, or as many as 16 bytes are: into their planes, from where `plane` points to on.
template <u32 SIZE> GZ_DEVICE void spread(const u128* part, u8* plane, u32 width) {
    constexpr u32 WORDS = SIZE > 4 ? SIZE : 4;
    u32 w[WORDS];
    for (u32 k = 0; k < WORDS / 4; k++) {
        w[4 * k] = (u32)part[k].lo, w[4 * k + 1] = (u32)(part[k].lo >> 32);
        w[4 * k + 2] = (u32)part[k].hi, w[4 * k + 3] = (u32)(part[k].hi >> 32);
    }
    if constexpr (SIZE == 1) {
        *(u128*)plane = part[0];
    } else if constexpr (SIZE == 2) {
        for (u32 b = 0; b < 2; b++) {
            u32 each = b ? 0x7531 : 0x6420;
            u32 low = __byte_perm(w[0], w[1], each), high = __byte_perm(w[2], w[3], each);
            *(u64*)(plane + b * width) = (u64)high << 32 | low;
        }
    } else {
        for (u32 b = 0; b < SIZE; b += 4) {
            u32 in[4], out[4];
            for (u32 j = 0; j < 4; j++) in[j] = w[(j * SIZE + b) / 4];
            gz_transpose_bytes(in, out[0], out[1], out[2], out[3]);
            for (u32 j = 0; j < 4; j++) *(u32*)(plane + (b + j) * width) = out[j];
        }
    }
}

// `count` items of any size, from the `first`-th on, byte by byte.
GZ_DEVICE void fetch_bytes(const u8* src, u8* plane, u32 width, u32 first, u32 count, u32 size) {
    u32 inverse = gz_inverted(size);
#pragma unroll 1
    for (u32 at = first * size + threadIdx.x; at < count * size; at += 4 * THREADS) {
        u8 byte[4] = {0, 0, 0, 0};
        for (u32 k = 0; k < 4; k++)
            if (at + k * THREADS < count * size) byte[k] = src[at + k * THREADS];
        for (u32 k = 0; k < 4; k++) {
            u32 place = at + k * THREADS, item = gz_divided(place, size, inverse);
            if (place < count * size) plane[(place - item * size) * width + item] = byte[k];
        }
    }
}

// Of `count` items of `size` bytes so many as are taken together, four or 16 bytes; none of those of another
// size, or at no multiple of 16. How many they are.
GZ_DEVICE u32 fetch_units(const u8* src, u8* plane, u32 width, u32 count, u32 size) {
    if (size > 16 || (size & (size - 1)) || (u32)gz_address(src) & 15) return 0;
    u32 log = size > 4 ? size / 8 : 0;  // a unit is 1 << log times 16 bytes
    u32 items = size > 2 ? 4 : 16 / size, units = count / items;
    const u128* from = (const u128*)src;
#pragma unroll 1
    for (u32 first = threadIdx.x; first < units; first += (4 >> log) * THREADS) {
        u128 part[4];
        for (u32 k = 0; k < 4; k++) {
            u32 unit = first + (k >> log) * THREADS;
            if (unit < units) part[k] = from[(unit << log) + (k & ((1 << log) - 1))];
        }
        for (u32 k = 0; k < 4; k++) {
            u32 unit = first + k * THREADS;
            u8* to = plane + unit * items;
            if (k >= 4 >> log || unit >= units) break;
            if (size == 1) spread<1>(part + k, to, width);
            if (size == 2) spread<2>(part + k, to, width);
            if (size == 4) spread<4>(part + k, to, width);
            if (k < 2 && size == 8) spread<8>(part + 2 * (k & 1), to, width);
            if (k < 1 && size == 16) spread<16>(part, to, width);
        }
    }
    return units * items;
}

// Planes of bytes into planes of bits, eight for one, of width / 8 bytes. Every thread of the block.
GZ_DEVICE void to_bits(u8* plane, u32 width, u32 count, u32 size) {
    u32 parts = (count + 31) / 32, units = size * parts, inverse = gz_inverted(max(parts, 1u));
    u32 row[2][8] = {};  // no thread has more than two units: a tile has 16384 bytes
    for (u32 h = 0; h < 2; h++) {
        u32 unit = threadIdx.x + h * THREADS;
        if (unit >= units) continue;
        u32 b = gz_divided(unit, parts, inverse), word[8];
        const u128* from = (const u128*)(plane + b * width + 32 * (unit - b * parts));
        for (u32 k = 0; k < 2; k++) {
            word[4 * k] = (u32)from[k].lo, word[4 * k + 1] = (u32)(from[k].lo >> 32);
            word[4 * k + 2] = (u32)from[k].hi, word[4 * k + 3] = (u32)(from[k].hi >> 32);
        }
        // Byte c of row j is item 8c + j; then byte c of row k holds bit k of items 8c to 8c + 7.
        u32* r = row[h];
        u32 even[4] = {word[0], word[2], word[4], word[6]}, odd[4] = {word[1], word[3], word[5], word[7]};
        gz_transpose_bytes(even, r[0], r[1], r[2], r[3]);
        gz_transpose_bytes(odd, r[4], r[5], r[6], r[7]);
        gz_transpose_bits(r);
    }
    __syncthreads();
    for (u32 h = 0; h < 2; h++) {
        u32 unit = threadIdx.x + h * THREADS;
        if (unit >= units) continue;
        u32 b = gz_divided(unit, parts, inverse);
        u8* to = plane + b * width + 4 * (unit - b * parts);
        for (u32 k = 0; k < 8; k++) *(u32*)(to + k * (width / 8)) = row[h][k];
    }
}

// ---- from shared memory

// `count` bytes of each of `planes` planes, which are `width` bytes apart here and `pitch` there.
GZ_DEVICE void put(const u8* plane, u32 width, u32 count, u32 planes, u8* dst, u64 pitch) {
    bool aligned = (((u32)gz_address(dst) | (u32)pitch) & 15) == 0;
    u32 cells = aligned ? (count + 15) / 16 : (count + 30) / 16;  // of 16 aligned bytes that they may be in
    if (!count) return;
    u32 inverse = gz_inverted(cells);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < planes * cells; i += THREADS) {
        u32 p = gz_divided(i, cells, inverse);
        u8* to = dst + p * pitch;
        const u8* from = plane + p * width;
        i32 at = (i32)((i - p * cells) * 16) - (i32)((u32)gz_address(to) & 15);
        if (at >= 0 && at + 16 <= (i32)count) {
            u32 place = (u32)gz_address(from + at);
            *(u128*)(to + at) = gz_sixteen(from + at, place & 3, (place & 15) == 0);
        } else {
#pragma unroll 1
            for (i32 k = max(at, 0); k < at + 16 && k < (i32)count; k++) to[k] = from[k];
        }
    }
}

// The tile of that number; one of nothing where the chunk has none.
GZ_DEVICE Tile cut(u64 nbytes, u64 blocksize, u64 tiles, u32 width, u32 typesize, i32 kind, u64 number) {
    Tile tile = {};
    u64 block = divided(number, tiles), first = (number - block * tiles) * width;
    tile.start = block * blocksize, tile.typesize = typesize, tile.width = width, tile.kind = (u32)kind;
    u64 size = min(blocksize, nbytes - tile.start);
    tile.items = divided(size, typesize);
    if (first && first >= tile.items) return tile;
    tile.count = (u32)min(tile.items - first, (u64)width);
    tile.rest = first + tile.count == tile.items ? (u32)(size - tile.items * typesize) : 0;
    tile.from = first * typesize, tile.to = kind == 2 ? first / 8 : first;
    if (kind != 1 && (kind != 2 || tile.items % 8)) {  // bytes, one behind the other
        tile.kind = 0, tile.typesize = 1, tile.to = tile.from, tile.items = size;
        tile.count = tile.count * typesize + tile.rest, tile.rest = 0;
    }
    return tile;
}

GZ_KERNEL __launch_bounds__(256, 4)
gz_shuffle(const u8* src, u8* dst, i64 src_pitch, i64 dst_pitch, i64 nbytes, i64 blocksize, i32 typesize,
           i32 kind, i32 tiles) {
    __shared__ u128 memory[(TILE + REST) / 16 + 1];  // words are looked at as far as four bytes behind
    u8* plane = (u8*)memory;
    if (nbytes <= 0 || blocksize <= 0 || (u32)typesize - 1 >= 255) return;  // all threads
    i64 chunk = blockIdx.x / (u32)tiles;
    src += chunk * src_pitch;
    dst += chunk * dst_pitch;
    u32 size = (u32)typesize, width = max(TILE / size / 64 * 64, 64u);
    u64 of_block = max(divided(divided((u64)min(blocksize, nbytes), size) + width - 1, width), (u64)1);
    u64 all = (divided((u64)nbytes - 1, (u64)blocksize) + 1) * of_block;
#pragma unroll 1
    for (u64 number = blockIdx.x % (u32)tiles; number < all; number += (u32)tiles) {
        Tile tile = cut((u64)nbytes, (u64)blocksize, of_block, width, size, kind, number);
        const u8 *block = src + tile.start, *from = block + tile.from;
        u32 done = fetch_units(from, plane, tile.width, tile.count, tile.typesize);
        fetch_bytes(from, plane, tile.width, done, tile.count, tile.typesize);
        u64 behind = tile.items * tile.typesize;
        u8* to = dst + tile.start;
#pragma unroll 1
        for (u32 k = threadIdx.x; k < tile.rest; k += THREADS) to[behind + k] = block[behind + k];
        __syncthreads();
        if (tile.kind == 2) {  // all threads
            to_bits(plane, tile.width, tile.count, tile.typesize);
            __syncthreads();
            put(plane, tile.width / 8, tile.count / 8, tile.typesize * 8, to + tile.to, tile.items / 8);
        } else {
            put(plane, tile.width, tile.count, tile.typesize, to + tile.to, tile.items);
        }
        __syncthreads();  // the planes are read before the next tile overwrites them
    }
}
