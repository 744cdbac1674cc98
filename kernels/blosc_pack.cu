// Blosc 1 containers of encoded streams (codecs/blosc_encode.py). kernels/blosc.cu finds the streams again.
//
//   streams     encoded, row r at r * stream_pitch, stream_nbytes[r] bytes: `splits` a block, one in a block
//               that is left over, chunk after chunk
//   shuffled    what they were encoded from; chunk c at c * shuffled_pitch
//   plain       the same before it was shuffled; chunk c at c * plain_pitch
//   container   header, 16 bytes | start of each block, int32, counted from the header | blocks
//   block       size, int32 | stream | size | stream ...
//
// A stream that is not smaller than its share of the block, or has no size, is stored as the share is. Where
// the container would not be smaller than the chunk and a header, it is a header and the chunk: plain, as
// `flags` then say. All chunks have the same nbytes; `splits` divides blocksize, and is what a reader makes
// of flags, typesize and blocksize (Header.splits in codecs/blosc_header.py). Container c lies at c * pitch,
// which is at least nbytes + 16; what is behind its end is left alone.
//
// gz_blosc_plan: a block of threads, up to 256, a chunk. They add up what the streams take, then, as many at
// a time, where they go: place[r] in the container, or -1 where the chunk is plain. All but the streams is
// written, and nbytes_out[c].
//
// gz_blosc_pack: a warp a row, any number of warps a block, copies the stream, the share in its stead, or the
// same share of the plain chunk.
#include "gz.cuh"

const i64 HEADER = 16;
const u32 MEMCPYED = 2, MOST_THREADS = 256;

// How a chunk is cut into streams, which are rows of a table.
struct Cut {
    i64 nbytes, blocksize, splits, blocks, rows;
};

GZ_DEVICE Cut cut(i64 nbytes, i64 blocksize, i64 splits) {
    i64 blocks = nbytes ? (nbytes + blocksize - 1) / blocksize : 0;
    i64 rows = blocks * splits - (nbytes && nbytes % blocksize ? splits - 1 : 0);
    return Cut{nbytes, blocksize, splits, blocks, rows};
}

// The size of stream k, decoded, and where that is in the chunk.
GZ_DEVICE i64 share(const Cut& c, i64 k, i64& at) {
    i64 start = k / c.splits * c.blocksize;
    at = start;
    if (c.nbytes - start < c.blocksize) return c.nbytes - start;
    at += k % c.splits * (c.blocksize / c.splits);
    return c.blocksize / c.splits;
}

GZ_DEVICE bool as_it_is(i64 stream_nbytes, i64 share_nbytes) {
    return stream_nbytes <= 0 || stream_nbytes >= share_nbytes;
}

// The sum over the threads before this one, and over all of them. Every thread of the block comes here.
GZ_DEVICE i64 sum_before(i64 value, i64* warp_sums, i64& total) {
    u32 lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    i64 sum = value;
    for (u32 by = 1; by < 32; by *= 2) {
        i64 before = __shfl_up_sync(0xffffffffu, sum, by);
        if (lane >= by) sum += before;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    i64 before = 0;
    total = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) {
        if (w < warp) before += warp_sums[w];
        total += warp_sums[w];
    }
    __syncthreads();
    return before + sum - value;
}

GZ_KERNEL __launch_bounds__(256)
gz_blosc_plan(const i64* stream_nbytes, i64* place, u8* containers, i64* nbytes_out, i64 pitch, i64 nbytes,
              i64 blocksize, i64 splits, i32 typesize, i32 flags) {
    __shared__ i64 warp_sums[MOST_THREADS / 32];
    Cut c = cut(nbytes, blocksize, splits);
    i64 chunk = blockIdx.x, sum = 0, at, total;
    const i64* sizes = stream_nbytes + chunk * c.rows;
    i64* places = place + chunk * c.rows;
    u8* container = containers + chunk * pitch;
    for (i64 k = threadIdx.x; k < c.rows; k += blockDim.x) {
        i64 all = share(c, k, at);
        sum += 4 + (as_it_is(sizes[k], all) ? all : sizes[k]);
    }
    sum_before(sum, warp_sums, total);
    i64 start = HEADER + 4 * c.blocks, cbytes = start + total;
    bool plain = cbytes >= nbytes + HEADER;
    if (plain) cbytes = nbytes + HEADER;
    if (threadIdx.x == 0) {
        u32 kind = ((u32)flags & 255) | (plain ? MEMCPYED : 0);
        gz_store<u32>(container, (u32)typesize << 24 | kind << 16 | 1 << 8 | 2);
        gz_store<u32>(container + 4, (u32)nbytes);
        gz_store<u32>(container + 8, (u32)blocksize);
        gz_store<u32>(container + 12, (u32)cbytes);
        nbytes_out[chunk] = cbytes;
    }
    for (i64 first = 0; first < c.rows; first += blockDim.x) {
        i64 k = first + threadIdx.x, stored = 0;
        if (k < c.rows) {
            i64 all = share(c, k, at);
            stored = as_it_is(sizes[k], all) ? all : sizes[k];
        }
        i64 mine = start + sum_before(k < c.rows ? 4 + stored : 0, warp_sums, total);
        start += total;
        if (k >= c.rows) continue;
        places[k] = plain ? -1 : mine + 4;
        if (plain) continue;
        gz_store<u32>(container + mine, (u32)stored);
        if (k % splits == 0) gz_store<u32>(container + HEADER + 4 * (k / splits), (u32)mine);
    }
}

GZ_KERNEL gz_blosc_pack(const u8* streams, const i64* stream_nbytes, const u8* shuffled, const u8* plain,
                        const i64* place, u8* containers, i64 stream_pitch, i64 shuffled_pitch,
                        i64 plain_pitch, i64 pitch, i64 nbytes, i64 blocksize, i64 splits, i64 rows) {
    i64 row = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    Cut c = cut(nbytes, blocksize, splits);
    i64 chunk = row / c.rows, at, size = stream_nbytes[row];
    i64 all = share(c, row % c.rows, at);
    const u8* from = streams + row * stream_pitch;
    u8* to = containers + chunk * pitch + place[row];
    if (place[row] < 0) {
        from = plain + chunk * plain_pitch + at, to = containers + chunk * pitch + HEADER + at, size = all;
    } else if (as_it_is(size, all)) {
        from = shuffled + chunk * shuffled_pitch + at, size = all;
    }
    gz_copy(to, from, (u32)size, threadIdx.x & 31);
}
