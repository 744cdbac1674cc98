// Chunks before their encoders and behind them: which are all fill value, and one put behind the other.
//
// gz_differs
//   src + i*pitch:  nbytes bytes, chunk i
//   fill:           itemsize bytes, 1 to 1024
//   differs[i]:     1 where chunk i is not `fill` again and again, cut where it ends; else left alone. 1 too
//                   with another itemsize or number of threads: then nothing was compared
//
// Blocks: chunks × tiles, of 256 threads; block b serves chunk b / tiles. Any number of tiles is right: those
// of a chunk take its rounds in turn, of 16384 bytes; with ⌈nbytes / 65536⌉ it is four each. A thread
// compares 16 bytes at a time with as many of `fill`, from where it stands in there, and reads all 64 of a
// round before it waits. A block stops at the first round that differs, or once another has found one.
//
// gz_pack
//   src + src_offset[i]:  nbytes[i] bytes, string i; none where that is negative, no more than `largest`
//   dst + dst_offset[i]:  the same bytes
//
// Blocks: rows × tiles, of whole warps; block b serves row b / tiles. Any number of tiles is right: the warps
// of a row take its shares in turn, of SHARE bytes; with ⌈largest / 8 / SHARE⌉ blocks of 256 threads it is at
// most one each.
#include "gz.cuh"

constexpr u32 THREADS = 256, ROUND = 64 * THREADS;  // bytes
constexpr u32 MOST_ITEMSIZE = 1024;
constexpr u32 SHARE = 8192;

// 16 bytes of a chunk, of which `left` are still there; behind them, those of `like`.
GZ_DEVICE u128 sixteen_of(const u8* from, i64 left, u128 like) {
    u32 skew = (u32)gz_address(from) & 3;
    if (left >= 16 && ((u32)gz_address(from) & 15) == 0) return *(const u128*)from;
    if (left >= 20) return gz_sixteen(from, skew, false);
#pragma unroll 1
    for (i32 k = 0; k < 16 && k < left; k++) {
        u64 changed = (u64)(from[k] ^ (u8)((k < 8 ? like.lo : like.hi) >> 8 * (k & 7))) << 8 * (k & 7);
        like.lo ^= k < 8 ? changed : 0, like.hi ^= k < 8 ? 0 : changed;
    }
    return like;
}

GZ_KERNEL __launch_bounds__(256)
gz_differs(const u8* src, const u8* fill, i32* differs, i64 pitch, i64 nbytes, i32 itemsize, i32 tiles) {
    __shared__ u128 memory[MOST_ITEMSIZE / 16 + 2];  // 16 bytes more, and four that are looked at
    u8* repeated = (u8*)memory;
    u32 size = (u32)itemsize, t = threadIdx.x;
    i64 chunk = blockIdx.x / (u32)tiles, begin = (i64)(blockIdx.x % (u32)tiles) * ROUND;
    if (size - 1 >= MOST_ITEMSIZE || blockDim.x != THREADS) {  // all threads
        if (t == 0) differs[chunk] = 1;
        return;
    }
    for (u32 k = t; k < size + 16; k += THREADS) repeated[k] = fill[k % size];
    __syncthreads();

    i64 step = (i64)tiles * ROUND;
    src += chunk * pitch;
    // Where in `fill` this thread stands, how far that moves within a round, and from one to the next.
    u32 phase = (u32)((begin + 16 * t) % size), within = 16 * THREADS % size, between = (u32)(step % size);
#pragma unroll 1
    for (; begin < nbytes; begin += step) {
        u128 like[4], part[4];
        u32 at = phase;
        for (u32 k = 0; k < 4; k++) {
            like[k] = gz_sixteen(repeated + at, at & 3, (at & 15) == 0);
            at = at + within < size ? at + within : at + within - size;
        }
        for (u32 k = 0; k < 4; k++) {
            i64 place = begin + 16 * (k * THREADS + t);
            part[k] = sixteen_of(src + place, nbytes - place, like[k]);
        }
        u64 changed = 0;
        for (u32 k = 0; k < 4; k++) changed |= (part[k].lo ^ like[k].lo) | (part[k].hi ^ like[k].hi);
        if (t == 0) changed |= (u64)(*(volatile i32*)(differs + chunk) != 0);
        if (__syncthreads_or(changed != 0)) {
            if (t == 0) differs[chunk] = 1;
            return;
        }
        phase = phase + between < size ? phase + between : phase + between - size;
    }
}

GZ_KERNEL gz_pack(const u8* src, const i64* src_offset, const i64* nbytes, u8* dst, const i64* dst_offset,
                  i64 largest, i32 tiles) {
    u32 warps = blockDim.x / 32, lane = threadIdx.x & 31;
    i64 row = blockIdx.x / (u32)tiles, share = (i64)(blockIdx.x % (u32)tiles) * warps + threadIdx.x / 32;
    i64 n = min(nbytes[row], largest);
    src += src_offset[row];
    dst += dst_offset[row];
    for (i64 at = share * SHARE; at < n; at += (i64)tiles * warps * SHARE)
        gz_copy(dst + at, src + at, (u32)min(n - at, (i64)SHARE), lane);
}
