// Compressed streams made ready for a decompression library, and what it made of them (device/nvcomp.py).
//
//   stream i   src_nbytes[i] bytes at src + src_offset[i]; gives dst_nbytes[i] bytes at dst + dst_offset[i]
//
//   zstd       magic | descriptor, window, content size | block header, block | block header, block ...
//   zlib       CMF FLG | deflate | Adler-32
//   gzip       1f 8b 8 flags time xfl os | extra, name, comment, CRC | deflate | CRC-32 | size
//   snappy     size | elements
//
// gz_streams: one warp a stream, any number of warps a block. A library believes what a stream says of itself,
// so that is compared with the row before: what is not as it should be sets fault[owner[i]]. For the library it
// writes where the body of each stream lies and where it goes (source, target and their sizes), and
//
//   expected[i]   bytes that have to come out, -1 for a stream that the library is not to decompress
//   checked[i]    offset in src of the checksum behind the body; -1: none, or a stream like that
//
// Streams that the library is not to decompress are replaced by `spare`, a stream of one byte, which goes to
// `spare_room`: those at fault, and where `stored`, those of dst_nbytes[i] bytes, which are copied here.
// Where `lifted` has bytes (lift), bodies that are not aligned to four go there first: to their own offset,
// rounded down. At least four bytes of a stream lie before its body, so that no two bodies meet there.
//
// gz_verdict: one thread a stream, any number of blocks. Statuses and sizes that are not as expected are faults.
#include "gz.cuh"

enum Format : i32 { ZSTD, ZLIB, GZIP, SNAPPY };

// The body of a stream, and its checksum's offset from the stream's begin.
struct Body {
    bool right;
    u64 begin, nbytes;
    i64 checksum;
};

GZ_DEVICE u64 little_endian(const u8* src, u32 width) {
    u64 value = 0;
    for (u32 k = 0; k < width; k++) value |= (u64)src[k] << 8 * k;
    return value;
}

// One frame of known size, without dictionary and checksum, whose blocks end where it ends. Encoders make blocks
// of a KiB and more; a frame of very many is left to the host, since they are walked one by one.
GZ_DEVICE Body zstd_body(const u8* src, u64 n, u64 m) {
    Body body = {false, 0, n, -1};
    if (n < 9 || little_endian(src, 4) != 0xFD2FB528u) return body;
    u32 descriptor = src[4], single = descriptor >> 5 & 1, code = descriptor >> 6;
    u32 width = code ? 1u << code : single;
    u64 at = 6 - single;
    if (descriptor & 15 || width == 0 || at + width + 3 > n) return body;  // checksum, dictionary, reserved; no size
    if (little_endian(src + at, width) + (width == 2 ? 256 : 0) != m) return body;
    at += width;
    u64 most = 64 + m / 1024;
    for (u32 last = 0; !last; most--) {
        if (most == 0 || at + 3 > n) return body;
        u32 head = (u32)little_endian(src + at, 3), kind = head >> 1 & 3, size = head >> 3;
        if (kind == 3 || size > 128 << 10) return body;
        last = head & 1;
        at += 3 + (kind == 1 ? 1 : size);
    }
    body.right = at == n;
    return body;
}

GZ_DEVICE Body zlib_body(const u8* src, u64 n) {
    if (n < 8) return Body{false, 0, 0, -1};
    u32 head = (u32)src[0] << 8 | src[1];
    bool right = (src[0] & 15) == 8 && src[0] >> 4 <= 7 && head % 31 == 0 && !(src[1] & 32);
    return Body{right, 2, n - 6, (i64)n - 4};
}

// One member. A header of over 4 KiB is left to the host.
GZ_DEVICE Body gzip_body(const u8* src, u64 n, u64 m) {
    Body body = {false, 0, 0, -1};
    if (n < 18 || src[0] != 0x1F || src[1] != 0x8B || src[2] != 8 || src[3] & 0xE0) return body;
    u32 flags = src[3];
    u64 at = 10, end = min(n - 8, (u64)4096);
    if (flags & 4) at += 2 + little_endian(src + at, 2);
    for (u32 text = 8; text <= 16; text *= 2)
        if (flags & text) {
            while (at < end && src[at]) at++;
            at++;
        }
    if (flags & 2) at += 2;
    if (at >= end || little_endian(src + n - 4, 4) != (m & 0xFFFFFFFFu)) return body;
    return Body{true, at, n - 8 - at, (i64)n - 8};
}

GZ_DEVICE Body snappy_body(const u8* src, u64 n, u64 m) {
    u64 size = 0, at = 0;
    for (u32 shift = 0; shift < 35 && at < n; shift += 7) {
        u8 byte = src[at++];
        size |= (u64)(byte & 127) << shift;
        if (byte < 128) return Body{size == m && at < n, 0, n, -1};
    }
    return Body{false, 0, 0, -1};
}

GZ_KERNEL gz_streams(const u8* src, const i64* src_offset, const i64* src_nbytes, u8* dst, const i64* dst_offset,
                     const i64* dst_nbytes, const i32* owner, i32* fault, u8* lifted, const u8* spare,
                     u8* spare_room, u64* source, u64* source_nbytes, u64* target, u64* target_nbytes,
                     i64* expected, i64* checked, i64 streams, i32 format, i32 stored, i32 lift,
                     i32 spare_nbytes) {
    i64 i = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
    u32 lane = threadIdx.x & 31;
    if (i >= streams) return;
    i64 n = src_nbytes[i], m = dst_nbytes[i];
    const u8* from = src + src_offset[i];
    u8* to = dst + dst_offset[i];
    Body body = {false, 0, 0, -1};
    bool sized = n > 0 && m > 0 && (n | m) >> 31 == 0, copied = stored && n == m && n >= 0;
    if (copied)
        gz_copy(to, from, (u32)n, lane);
    else if (sized)
        body = format == ZSTD   ? zstd_body(from, (u64)n, (u64)m)
               : format == ZLIB ? zlib_body(from, (u64)n)
               : format == GZIP ? gzip_body(from, (u64)n, (u64)m)
                                : snappy_body(from, (u64)n, (u64)m);
    const u8* begin = from + body.begin;
    if (body.right && lift && gz_address(begin) & 3) {
        u8* place = lifted + ((src_offset[i] + (i64)body.begin) & ~3ll);
        gz_copy(place, begin, (u32)body.nbytes, lane);
        begin = place;
    }
    if (lane) return;
    if (!copied && !body.right) fault[owner[i]] = 1;
    source[i] = gz_address(body.right ? begin : spare);
    source_nbytes[i] = body.right ? body.nbytes : (u64)spare_nbytes;
    target[i] = gz_address(body.right ? to : spare_room);
    target_nbytes[i] = body.right ? (u64)m : 1;
    expected[i] = body.right ? m : -1;
    checked[i] = body.right && body.checksum >= 0 ? src_offset[i] + body.checksum : -1;
}

GZ_KERNEL gz_verdict(const u64* written, const i32* statuses, const i64* expected, const i32* owner, i32* fault,
                     i64 streams) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < streams && expected[i] >= 0 && (statuses[i] != 0 || written[i] != (u64)expected[i]))
        fault[owner[i]] = 1;
}
