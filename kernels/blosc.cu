// Blosc 1 containers (codecs/blosc.py): where their streams are, and the shuffles of their blocks undone.
//
//   container   header, 16 bytes | start of each block, int32, counted from the header | blocks
//   block       size, int32 | stream | size | stream ...    `splits` streams; one in a block that is left over
//   stream      as large as its share of the block: stored as it is; else compressed
//
// A row of `notes` says of each chunk what its header does (Notes in codecs/blosc.py). Chunks whose payload is
// stored as it is have one stream a block as well.
//
// gz_blosc_walk: a thread a block of every chunk, `pitch` of them a chunk. It writes a row for each stream,
// from row first[chunk] on: where it is in src, where it goes in dst, both sizes, its chunk. The streams of a
// block lie behind one another, so that a thread reads at most 16 sizes in turn. A block that leaves its
// container is a fault, and the rows of its streams have no bytes.
//
// gz_blosc_unshuffle: a block of threads a tile of whole items, `tiles` a block, `pitch` a chunk.
//
//   bytes   before   a0 b0 c0 ...  a1 b1 c1 ...  a2 b2 c2 ...    a plane for each byte of an item
//   bits    before   bit 0 of a0 b0 c0 ... | bit 1 of them | ... | bit 0 of a1 b1 c1 ...    eight items a byte
//           after    a0 a1 a2  b0 b1 b2  c0 c1 c2 ...            items of typesize bytes, then what is left
//
// The tile's planes come to shared memory in words, so that global memory is read in runs; bits are transposed
// on the way, eight words at a time in registers. Every thread then gathers 16 bytes of the result, which
// are written at once. Bits are left as they are in a block whose items are no multiple of eight.
#include "gz.cuh"

constexpr u32 TILE = 8192;  // bytes of planes in shared memory, as codecs/blosc.py counts

struct Notes {
    i64 inner;      // 0: blosclz, 1: lz4, -1: stored as it is
    i64 shuffle;    // 0: none, 1: bytes, 2: bits
    i64 typesize;   // 1 to 255
    i64 blocksize;  // 1 to the chunk's
    i64 splits;     // divides blocksize
    i64 cbytes;     // of the container
};

GZ_KERNEL gz_blosc_walk(const u8* src, const i64* offset, const i64* notes, const i64* into, const i64* first,
                        i64* src_offset, i64* src_nbytes, i64* dst_offset, i64* dst_nbytes, i32* owner,
                        i32* fault, i64 nbytes, i64 pitch, i64 chunks) {
    i64 thread = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    i64 chunk = thread / pitch, block = thread % pitch;
    if (chunk >= chunks) return;
    const Notes& note = ((const Notes*)notes)[chunk];
    i64 blocks = (nbytes + note.blocksize - 1) / note.blocksize;
    if (block >= blocks) return;
    i64 size = min(note.blocksize, nbytes - block * note.blocksize);
    i64 splits = size < note.blocksize ? 1 : note.splits, share = size / splits;
    const u8* container = src + offset[chunk];

    i64 start = 16 + block * note.blocksize;
    if (note.inner >= 0) start = (i32)gz_load<u32>(container + 16 + 4 * block);
    bool right = note.inner < 0 || start >= 16 + 4 * blocks;
    for (i64 split = 0; split < splits; split++) {
        i64 row = first[chunk] + block * note.splits + split;
        i64 stored = share;
        if (note.inner >= 0) {
            right = right && start + 4 <= note.cbytes;
            if (right) stored = (i32)gz_load<u32>(container + start);
            start += 4;
        }
        right = right && stored >= 0 && start + stored <= note.cbytes;
        src_offset[row] = offset[chunk] + start;
        src_nbytes[row] = right ? stored : 0;
        dst_offset[row] = into[chunk] + block * note.blocksize + split * share;
        dst_nbytes[row] = right ? share : 0;
        owner[row] = (i32)chunk;
        start += stored;
    }
    if (!right) fault[chunk] = 1;
}

// Bytes that lie in memory as they should in the result. By a block.
GZ_DEVICE void copy_bytes(const u8* src, u8* dst, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) dst[i] = src[i];
}

// `count` bytes of each plane to shared memory, where planes are `width` bytes apart.
GZ_DEVICE void fetch_bytes(const u8* src, u32 items, u32 typesize, u8* plane, u32 width, u32 count) {
    u32 parts = (count + 15) / 16;
    for (u32 i = threadIdx.x; i < typesize * parts; i += blockDim.x) {
        u32 b = i / parts, at = i % parts * 16, n = min(count - at, 16u);
        const u8* from = src + (u64)b * items + at;
        u8* to = plane + b * width + at;
        if (n == 16 && (gz_address(from) & 15) == 0)
            *(u128*)to = *(const u128*)from;
        else
            for (u32 k = 0; k < 16; k += 4) {
                if (k + 4 <= n)
                    *(u32*)(to + k) = gz_load<u32>(from + k);
                else
                    for (u32 j = k; j < n; j++) to[j] = from[j];
            }
    }
}

// Exchange bits of a and b: those of b in `mask` with those of a that are `by` higher.
GZ_DEVICE void exchange(u32& a, u32& b, u32 by, u32 mask) {
    u32 changed = (a >> by ^ b) & mask;
    b ^= changed, a ^= changed << by;
}

// `count` items, a multiple of eight, as bytes of planes in shared memory; `src` is where they are in the
// first row of bits, and rows are `pitch` bytes apart. A thread takes 32 items of a plane, a word of each row.
GZ_DEVICE void fetch_bits(const u8* src, u32 pitch, u32 typesize, u8* plane, u32 width, u32 count) {
    u32 words = (count + 31) / 32;
    for (u32 i = threadIdx.x; i < typesize * words; i += blockDim.x) {
        u32 b = i / words, at = i % words * 4, row[8];
        const u8* from = src + (u64)(8 * b) * pitch + at;
        for (u32 k = 0; k < 8; k++, from += pitch) {
            if (8 * at + 32 <= count) {
                row[k] = gz_load<u32>(from);
            } else {
                row[k] = 0;
                for (u32 j = 0; 8 * (at + j) < count; j++) row[k] |= (u32)from[j] << 8 * j;
            }
        }
        // Byte c of row k holds bit k of items 8c to 8c + 7; then byte c of row j is item 8c + j.
        for (u32 k = 0; k < 4; k++) exchange(row[k], row[k + 4], 4, 0x0F0F0F0F);
        for (u32 k = 0; k < 8; k += k & 1 ? 3 : 1) exchange(row[k], row[k + 2], 2, 0x33333333);
        for (u32 k = 0; k < 8; k += 2) exchange(row[k], row[k + 1], 1, 0x55555555);
        u32* to = (u32*)(plane + b * width + 8 * at);
        for (u32 k = 0; k < 8; k += 4) {  // transpose 4 × 4 bytes
            u32 low01 = __byte_perm(row[k], row[k + 1], 0x5140);
            u32 high01 = __byte_perm(row[k], row[k + 1], 0x7362);
            u32 low23 = __byte_perm(row[k + 2], row[k + 3], 0x5140);
            u32 high23 = __byte_perm(row[k + 2], row[k + 3], 0x7362);
            to[k / 4] = __byte_perm(low01, low23, 0x5410), to[k / 4 + 2] = __byte_perm(low01, low23, 0x7632);
            to[k / 4 + 4] = __byte_perm(high01, high23, 0x5410);
            to[k / 4 + 6] = __byte_perm(high01, high23, 0x7632);
        }
    }
}

// The items whose planes lie in shared memory, one behind the other. SIZE is typesize, or 0.
template <u32 SIZE> GZ_DEVICE void gather(const u8* plane, u32 width, u32 typesize, u8* dst, u32 n) {
    const u32 size = SIZE ? SIZE : typesize;
    bool aligned = (gz_address(dst) & 15) == 0;
    for (u32 at = 16 * threadIdx.x; at < n; at += 16 * blockDim.x) {
        u32 item = at / size, b = at % size;
        if (aligned && at + 16 <= n) {
            u32 word[4];
            for (u32 k = 0; k < 4; k++) {
                word[k] = 0;
                for (u32 j = 0; j < 4; j++) {
                    word[k] |= (u32)plane[b * width + item] << 8 * j;
                    if (++b == size) b = 0, item++;
                }
            }
            *(u128*)(dst + at) = u128{(u64)word[1] << 32 | word[0], (u64)word[3] << 32 | word[2]};
        } else {
            for (u32 k = at; k < min(at + 16, n); k++) {
                dst[k] = plane[b * width + item];
                if (++b == size) b = 0, item++;
            }
        }
    }
}

GZ_KERNEL gz_blosc_unshuffle(const u8* src, const i64* src_offset, u8* dst, const i64* dst_offset,
                             const i64* notes, i32 nbytes, i32 pitch) {
    __shared__ u128 memory[TILE / 16];
    u8* plane = (u8*)memory;
    u32 chunk = blockIdx.x / (u32)pitch, unit = blockIdx.x % (u32)pitch;
    const Notes& note = ((const Notes*)notes)[chunk];
    u32 typesize = (u32)note.typesize, blocksize = (u32)note.blocksize;
    u32 width = max(TILE / typesize / 32 * 32, 32u);  // items of a tile
    u32 tiles = max((blocksize / typesize + width - 1) / width, 1u);
    u32 block = unit / tiles, first = unit % tiles * width;
    u64 start = (u64)block * blocksize;
    u32 size = start < (u32)nbytes ? min(blocksize, (u32)nbytes - (u32)start) : 0, items = size / typesize;
    if (size == 0 || (first && first >= items)) return;  // the whole block: the chunk has fewer tiles
    src += src_offset[chunk] + start, dst += dst_offset[chunk] + start;
    u32 count = min(items - first, width), begin = first * typesize;
    u32 rest = first + count == items ? size - items * typesize : 0;  // bytes behind the last item

    if (note.shuffle == 2 && items % 8) {
        copy_bytes(src + begin, dst + begin, count * typesize + rest);
        return;
    }
    if (note.shuffle == 2)
        fetch_bits(src + first / 8, items / 8, typesize, plane, width, count);
    else
        fetch_bytes(src + first, items, typesize, plane, width, count);
    __syncthreads();
    u8* to = dst + begin;
    if (typesize == 1) gather<1>(plane, width, typesize, to, count);
    else if (typesize == 2) gather<2>(plane, width, typesize, to, count * 2);
    else if (typesize == 4) gather<4>(plane, width, typesize, to, count * 4);
    else if (typesize == 8) gather<8>(plane, width, typesize, to, count * 8);
    else if (typesize == 16) gather<16>(plane, width, typesize, to, count * 16);
    else gather<0>(plane, width, typesize, to, count * typesize);
    copy_bytes(src + items * typesize, dst + items * typesize, rest);
}
