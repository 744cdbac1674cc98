// Strings made ready for a compression library, and what it made of them (device/compressing.py).
//
//   string i   src_nbytes[i] bytes at src + src_offset[i]; becomes a stream at dst + dst_offset[i]
//   stream i   dst_nbytes[i] bytes
//
//   zstd       magic | descriptor, window, content size | block header, block | block header, block ...
//
// gz_strings: one warp a string, any number of warps a block. For the library it writes where each string lies
// and where its stream goes (source, source_nbytes, target), and
//
//   expected[i]   bytes that the stream has to stand for, -1 where the library is not to see the string
//   statuses[i]   that of a library which has said nothing
//
// The library sees no string that is empty or longer than `largest`, but the one byte of `spare` in its place.
// Strings that do not lie at a multiple of `unit`, a power of two, go to lifted + i * pitch first; where pitch is
// zero there is no such place, and they are not seen either.
//
// gz_compressed: one thread a string, any number of blocks. What is no stream that says expected[i] sets
// fault[owner[i]], and its dst_nbytes, into which the library wrote the sizes, becomes 0. What passes is what
// gz_streams (streams.cu) passes to a decompressor, so that whoever wants to know the size beforehand can read it.
#include "gz.cuh"

enum Format : i32 { ZSTD };  // as in streams.cu

GZ_DEVICE u64 little_endian(const u8* src, u32 width) {
    u64 value = 0;
    for (u32 k = 0; k < width; k++) value |= (u64)src[k] << 8 * k;
    return value;
}

// One frame that says m, without dictionary and checksum, whose blocks end where its n bytes end.
GZ_DEVICE bool zstd_frame(const u8* src, u64 n, u64 m) {
    if (n < 9 || little_endian(src, 4) != 0xFD2FB528u) return false;
    u32 descriptor = src[4], single = descriptor >> 5 & 1, code = descriptor >> 6;
    u32 width = code ? 1u << code : single;
    u64 at = 6 - single;
    if (descriptor & 15 || width == 0 || at + width + 3 > n) return false;
    if (little_endian(src + at, width) + (width == 2 ? 256 : 0) != m) return false;
    at += width;
    u64 most = 64 + m / 1024;  // blocks: no decompressor here walks more
    for (u32 last = 0; !last; most--) {
        if (most == 0 || at + 3 > n) return false;
        u32 head = (u32)little_endian(src + at, 3), kind = head >> 1 & 3, size = head >> 3;
        if (kind == 3 || size > 128 << 10) return false;
        last = head & 1;
        at += 3 + (kind == 1 ? 1 : size);
    }
    return at == n;
}

GZ_KERNEL gz_strings(const u8* src, const i64* src_offset, const i64* src_nbytes, u8* dst, const i64* dst_offset,
                     u8* lifted, const u8* spare, u64* source, u64* source_nbytes, u64* target, i64* expected,
                     i32* statuses, i64 strings, i64 largest, i64 pitch, i32 unit) {
    i64 i = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x & 31;
    if (i >= strings) return;
    i64 n = src_nbytes[i];
    const u8* from = src + src_offset[i];
    bool seen = n > 0 && n <= largest, aligned = (gz_address(from) & (u64)(unit - 1)) == 0;
    if (seen && !aligned && pitch) {
        gz_copy(lifted + i * pitch, from, (u32)n, lane);
        from = lifted + i * pitch;
        aligned = true;
    }
    seen = seen && aligned;
    if (lane) return;
    source[i] = gz_address(seen ? from : spare);
    source_nbytes[i] = seen ? (u64)n : 1;
    target[i] = gz_address(dst + dst_offset[i]);
    expected[i] = seen ? n : -1;
    statuses[i] = -1;
}

GZ_KERNEL gz_compressed(const u8* dst, const i64* dst_offset, i64* dst_nbytes, const i64* expected,
                        const i32* statuses, const i32* owner, i32* fault, i64 strings, i64 room, i32 format) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= strings) return;
    i64 n = dst_nbytes[i], m = expected[i];
    bool right = m > 0 && statuses[i] == 0 && n > 0 && n <= room;
    if (right) right = format == ZSTD && zstd_frame(dst + dst_offset[i], (u64)n, (u64)m);
    if (right) return;
    dst_nbytes[i] = 0;
    fault[owner[i]] = 1;
}
