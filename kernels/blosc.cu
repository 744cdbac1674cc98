// Blosc 1 containers (codecs/blosc.py): where their streams are.
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
#include "gz.cuh"

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
