// Decodes the streams of Blosc's own codec (codecs/blosc.py; c-blosc's blosclz, a FastLZ).
//
//   before   src + src_offset[i]:  control | literals | control | code | control | ...    src_nbytes[i]
//   after    dst + dst_offset[i]:  literals | match | literals | ...                      dst_nbytes[i]
//   fault[owner[i]]:               1 where that is not so; else left alone
//
//   control < 32    control + 1 literals follow; the first control is cut to five bits, so it is one of these
//   control >= 32   a match of (control >> 5) + 2 bytes, more in further bytes as in LZ4 where the three bits
//                   are 7, from a distance of (control & 31) * 256 + code + 1; where that has all ones, two
//                   more bytes, the higher first, hold the distance less 8192
//
// A stream is stored as it is where both sizes are equal. Sizes are below 2^31. One warp decodes stream i, any
// number of warps a block; why it is fast is said in lz4.cu. It takes and refuses what c-blosc does: the end of
// a stream comes behind literals. Nothing outside of a stream's own ranges is read or written.
#include "gz.cuh"

GZ_DEVICE bool decoded(const u8* src, u32 n, u8* dst, u32 m, u32 lane) {
    if (n == 0) return false;
    u32 in = 1, out = 0, control = src[0] & 31;
    for (;;) {
        if (control < 32) {
            u32 literals = control + 1;
            if (literals > n - in || literals > m - out) return false;
            u8 literal = lane < literals ? src[in + lane] : 0;
            in += literals;
            if (in < n) control = src[in];
            if (lane < literals) dst[out + lane] = literal;
            out += literals;
            if (in++ == n) return out == m;
            continue;
        }
        u32 length = (control >> 5) + 2, distance = (control & 31) << 8;
        if (in + 1 >= n) return false;
        if (length == 9 && !gz_lengthen(src, n - 1, in, length, m - out, lane)) return false;
        distance += src[in++];
        if (distance == 8191) {
            if (in + 1 >= n) return false;
            distance += (u32)src[in] << 8 | src[in + 1];
            in += 2;
        }
        distance++;
        if (length > m - out || distance > out || in >= n) return false;
        control = src[in++];
        gz_repeat(dst + out, distance, length, lane);
        out += length;
    }
}

GZ_KERNEL gz_blosclz(const u8* src, const i64* src_offset, const i64* src_nbytes, u8* dst,
                     const i64* dst_offset, const i64* dst_nbytes, const i32* owner, i32* fault, i64 streams) {
    i64 i = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x & 31;
    if (i >= streams) return;
    const u8* from = src + src_offset[i];
    u8* to = dst + dst_offset[i];
    i64 n = src_nbytes[i], m = dst_nbytes[i];
    bool right = n >= 0 && m >= 0 && (n | m) >> 31 == 0;
    if (right && n == m)
        gz_copy(to, from, (u32)n, lane);
    else if (right)
        right = decoded(from, (u32)n, to, (u32)m, lane);
    if (!right && lane == 0) fault[owner[i]] = 1;
}
