// Decodes LZ4 blocks (codecs/lz4.py, codecs/blosc.py; the LZ4 block format).
//
//   before   src + src_offset[i]:  token | literals | offset | token | ... | last literals    src_nbytes[i]
//   after    dst + dst_offset[i]:  literals | match | literals | ...                          dst_nbytes[i]
//   fault[owner[i]]:               1 where that is not so; else left alone
//
// sized: four bytes before the token hold dst_nbytes (numcodecs). Not sized: a stream (Blosc), which is stored
// as it is where both sizes are equal. Sizes are below 2^31.
//
// One warp decodes stream i, any number of warps a block. All lanes read the tokens, which the cache serves at
// once, and share the copies: a literal run or match of up to 32 bytes is one load and one store, a longer one
// moves 16 bytes a lane, and a match that overlaps itself is read modulo its offset. The next token is on its
// way while the match is copied. What bounds it are the loads that wait for each other, two or three a
// sequence, so that many streams have to be in flight.
//
// It takes and refuses what LZ4_decompress_safe does, which looks away from the format's rules for the ends of
// a block where literals and match are short and both ends are far (`roomy`), and makes zeros of a match from
// offset 0, which the format forbids. Nothing outside of a stream's own ranges is read or written.
#include "gz.cuh"

GZ_DEVICE bool decoded(const u8* src, u32 n, u8* dst, u32 m, u32 lane) {
    if (n == 0) return false;
    u32 in = 1, out = 0, token = src[0];
    for (;;) {
        u32 literals = token >> 4, length = token & 15;
        bool roomy = literals < 15 && in + 17 <= n && out + 32 <= m;
        if (!roomy) {
            if (literals == 15 && !gz_lengthen(src, n, in, literals, m - out, lane)) return false;
            if (literals > n - in || literals > m - out) return false;
            if (literals == n - in) {
                gz_copy(dst + out, src + in, literals, lane);
                return out + literals == m;
            }
            if (literals + 8 > n - in || literals + 12 > m - out) return false;
        }
        const u8* behind = src + in + literals;
        u8 literal = lane < literals ? src[in + lane] : 0;
        u32 offset = behind[0] | (u32)behind[1] << 8;
        if (lane < literals) dst[out + lane] = literal;
        if (literals > 32) gz_copy(dst + out + 32, src + in + 32, literals - 32, lane);
        in += literals + 2, out += literals;

        roomy = roomy && length < 15 && offset >= 8;
        if (offset > out) return false;
        if (length == 15 && !gz_lengthen(src, n, in, length, m - out, lane)) return false;
        length += 4;
        if (!roomy && length + 5 > m - out) return false;
        if (in >= n) return false;
        token = src[in++];
        if (offset)
            gz_repeat(dst + out, offset, length, lane);
        else
            for (u32 i = lane; i < length; i += 32) dst[out + i] = 0;
        out += length;
    }
}

GZ_KERNEL gz_lz4(const u8* src, const i64* src_offset, const i64* src_nbytes, u8* dst, const i64* dst_offset,
                 const i64* dst_nbytes, const i32* owner, i32* fault, i64 streams, i32 sized) {
    i64 i = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x & 31;
    if (i >= streams) return;
    const u8* from = src + src_offset[i];
    u8* to = dst + dst_offset[i];
    i64 n = src_nbytes[i], m = dst_nbytes[i];
    bool right = n >= 0 && m >= 0 && (n | m) >> 31 == 0;
    if (right && sized) {
        right = n >= 4 && gz_load<u32>(from) == (u32)m && decoded(from + 4, (u32)n - 4, to, (u32)m, lane);
    } else if (right) {
        if (n == m)
            gz_copy(to, from, (u32)n, lane);
        else
            right = decoded(from, (u32)n, to, (u32)m, lane);
    }
    if (!right && lane == 0) fault[owner[i]] = 1;
}
