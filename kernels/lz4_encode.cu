// Encodes LZ4 blocks (codecs/lz4.py, codecs/blosc_encode.py; the LZ4 block format), which lz4.cu decodes.
//
//   before   src + src_offset[i]:  literals | match | literals | ...                          src_nbytes[i]
//   after    dst + dst_offset[i]:  token | literals | offset | token | ... | last literals    dst_nbytes[i]
//
// sized: four bytes with src_nbytes[i] come before the first token (numcodecs). A block takes at most `room`
// bytes, those included. Where it would take more, dst_nbytes[i] is -1, and what is written has no meaning;
// nothing behind `room` is written. Sizes are below 2^31. The same bytes give the same block, always.
//
// Blocks of 32 threads, a warp, and as many of them as streams (of fewer, each takes several). The lanes
// look at 32 positions together, a window. A table in shared memory says where the same five bytes were
// before (four hardly pay): of their hash twelve bits choose the slot, and twelve more lie there beside the
// position, so that bytes are hardly ever fetched in vain. What is repeated within the window, 1, 2, 3, 4 or
// 8 lanes on, is seen by comparing lanes. Then, from the first position on: the next one with a match is
// measured in both directions at once, 112 bytes on and 16 back, and its sequence written, most often with
// one store. At last the positions go into the table: of two in a slot the later one, but none that repeats
// another of its window, so that a run is known by its beginning. Where windows in a row have no match,
// positions lie further and further apart.
//
// What bounds it (untested): a window waits some 150 cycles for its own bytes and the table, a sequence as
// long for the bytes that it compares, one after the other. So streams should be many, rather than large. An
// SM of compute capability 9.0 has shared memory for 13 tables, and registers for more.
#include "gz.cuh"

const u32 SLOT_BITS = 12, SLOTS = 1 << SLOT_BITS;
const u32 TAG_BITS = 12, TAGS = 1 << TAG_BITS;
const u32 POSITIONS = 1u << (32 - TAG_BITS);   // that entries tell apart
const u32 FARTHEST = 65535;                    // where a match may come from
const u32 LAST_START = 12, LAST_LITERALS = 5;  // of a match, from the end; of what no match reaches
const u32 WIDEST = 512;                        // step between positions
const u32 AHEAD = 28;                          // lanes that measure on; the others measure back
const u32 ALL = 0xffffffffu;

// A warp's stream, and how far its block is written.
struct Stream {
    const u8* src;
    u8* dst;
    u32 n, out, room, lane;
};

struct Match {
    u32 length, back;
};

// Four bytes at any place. Of the word behind, some are looked at too.
GZ_DEVICE u32 four(const u8* p) {
    u32 skew = (u32)gz_address(p) & 3;
    const u32* word = (const u32*)(p - skew);
    return __funnelshift_r(word[0], word[1], 8 * skew);
}

// A hash of five bytes at any place, best in its high bits; and the first four.
GZ_DEVICE u32 hash_five(const u8* p, u32& first) {
    u32 skew = (u32)gz_address(p) & 3;
    const u32* word = (const u32*)(p - skew);
    first = __funnelshift_r(word[0], word[1], 8 * skew);
    return (first + (word[1] >> 8 * skew & 255) * 0x2C1B3C6Du) * 2654435761u;
}

// How many of the four bytes at `at` are those that lie `distance` before, from the first one on.
GZ_DEVICE u32 same_on(const Stream& s, u32 at, u32 distance) {
    u32 end = s.n - LAST_LITERALS, from = min(at, s.n - 8);
    if (at >= end) return 0;
    u32 bits = (four(s.src + from) ^ four(s.src + from - distance)) >> 8 * (at - from);
    return min(bits ? ((u32)__ffs((i32)bits) - 1) / 8 : 4, end - at);
}

// The same of the four bytes before `end`, from the last one on.
GZ_DEVICE u32 same_back(const Stream& s, u32 end, u32 distance) {
    if ((i32)end <= (i32)distance) return 0;
    u32 most = min(end - distance, 4u), from = end - most;
    u32 bits = (four(s.src + from) ^ four(s.src + from - distance)) << 8 * (4 - most);
    return min(bits ? (u32)__clz((i32)bits) / 8 : 4, most);
}

// What `count` lanes from `first` on have in a row: as far as the first that has less than 4.
GZ_DEVICE u32 in_a_row(u32 same, u32 first, u32 count) {
    u32 stops = __ballot_sync(ALL, same < 4) >> first << (32 - count);
    u32 full = stops ? (u32)__ffs((i32)stops) - 1 - (32 - count) : count;
    u32 rest = __shfl_sync(ALL, same, (i32)(first + full) & 31);
    return 4 * full + (full < count ? rest : 0);
}

// How many bytes on from `at`, and back, `most` of them, are those that lie `distance` before.
GZ_DEVICE Match measure(const Stream& s, u32 at, u32 distance, u32 most) {
    u32 lane = s.lane;
    u32 same = lane < AHEAD ? same_on(s, at + 4 * lane, distance)
                            : same_back(s, at - 4 * (lane - AHEAD), distance);
    Match match = {in_a_row(same, 0, AHEAD), in_a_row(same, AHEAD, 32 - AHEAD)};
    for (u32 full = 4 * AHEAD; match.length == full; full += 128)
        match.length += in_a_row(same_on(s, at + full + 4 * lane, distance), 0, 32);
    for (u32 full = 128 - 4 * AHEAD; match.back == full && full < most; full += 128)
        match.back += in_a_row(same_back(s, at - full - 4 * lane, distance), 0, 32);
    match.back = min(match.back, most);
    return match;
}

// The rest of a length that is 15 or more, in LZ4's form: `count` bytes.
GZ_DEVICE void write_rest(u8* dst, u32 rest, u32 count, u32 lane) {
    for (u32 i = lane; i < count; i += 32) dst[i] = i + 1 < count ? 255 : (u8)(rest - 255 * i);
}

// Literals from `from` on, the first of which lanes 1 and up hold, and a match, unless it has no length.
// False if there is no room.
GZ_DEVICE bool write_sequence(Stream& s, u32 from, u32 run, u32 literal, u32 distance, u32 length) {
    u32 code = length ? length - 4 : 0, lane = s.lane;
    u32 run_bytes = run < 15 ? 0 : (run - 15) / 255 + 1, code_bytes = code < 15 ? 0 : (code - 15) / 255 + 1;
    u32 nbytes = 1 + run_bytes + run + (length ? 2 + code_bytes : 0);
    if (nbytes > s.room - s.out) return false;
    u8* dst = s.dst + s.out;
    s.out += nbytes;
    u32 token = min(run, 15u) << 4 | min(code, 15u);
    if (run < 15) {
        u32 byte = lane == 0 ? token : lane <= run ? literal : lane == run + 1 ? distance : distance >> 8;
        if (lane < run + (length ? 3 : 1)) dst[lane] = (u8)byte;
    } else {
        if (lane == 0) dst[0] = (u8)token;
        write_rest(dst + 1, run - 15, run_bytes, lane);
        gz_copy(dst + 1 + run_bytes, s.src + from, run, lane);
        if (length && lane < 2) dst[1 + run_bytes + run + lane] = (u8)(distance >> 8 * lane);
    }
    write_rest(dst + nbytes - code_bytes, code - 15, code_bytes, lane);
    return true;
}

// Positions in the table are counted from `base`. What lies before `by` more of them is forgotten.
GZ_DEVICE void rebase(u32* table, u32 by, u32 lane) {
    for (u32 i = lane; i < SLOTS; i += 32) table[i] -= min(table[i], min(by, POSITIONS - 1) << TAG_BITS);
    __syncwarp();
}

GZ_DEVICE bool encoded(Stream& s, u32* table) {
    const u32 near[] = {8, 4, 3, 2, 1};
    u32 lane = s.lane, done = 0;  // what is written
    for (u32 i = lane; i < SLOTS; i += 32) table[i] = 0;
    __syncwarp();
    for (u32 window = 0, next, base = 0, idle = 0; window + LAST_START <= s.n; window = next) {
        u32 step = min(1 + idle++ / 2, WIDEST);
        next = window + 32 * step;
        if (next - base > POSITIONS) {
            u32 by = window - FARTHEST - 1 - base;
            rebase(table, by, lane);
            base += by;
        }
        u32 at = window + lane * step;
        bool inside = at + LAST_START <= s.n, repeated = false;
        u32 word = 0, hash = inside ? hash_five(s.src + at, word) : 0;
        u32 slot = hash >> (32 - SLOT_BITS), tag = hash >> (32 - SLOT_BITS - TAG_BITS) & (TAGS - 1);
        u32 entry = table[slot], distance = at - base - (entry >> TAG_BITS);
        bool found = (entry & (TAGS - 1)) == tag && distance - 1 < FARTHEST;
        for (u32 k = 0; k < sizeof(near) / 4; k++) {
            bool same = __shfl_up_sync(ALL, word, near[k]) == word;
            if (lane >= near[k] && same) distance = near[k] * step, repeated = true;
        }
        u32 matches = __ballot_sync(ALL, inside && (found || repeated));
        while (matches) {
            u32 first = (u32)__ffs((i32)matches) - 1, here = window + first * step;
            u32 from = __shfl_sync(ALL, distance, (i32)first);
            u32 literal = lane - 1 < here - done ? s.src[done + lane - 1] : 0;
            Match match = measure(s, here, from, here - done);
            matches &= matches - 1;
            if (match.length < 4) continue;  // other bytes with this slot and tag
            u32 run = here - match.back - done;
            if (!write_sequence(s, done, run, literal, from, match.back + match.length)) return false;
            done = here + match.length, idle = 0;
            if (step > 1 || done >= next) {
                next = done;
                break;
            }
            matches &= ALL << (done - window);
        }
        __syncwarp();
        if (inside && !repeated && at < next) atomicMax(&table[slot], (at - base) << TAG_BITS | tag);
        __syncwarp();
    }
    u32 literal = lane - 1 < s.n - done ? s.src[done + lane - 1] : 0;
    return write_sequence(s, done, s.n - done, literal, 0, 0);
}

GZ_KERNEL __launch_bounds__(64, 1)
gz_lz4_encode(const u8* src, const i64* src_offset, const i64* src_nbytes, u8* dst, const i64* dst_offset,
              i64* dst_nbytes, i64 room, i64 streams, i32 sized) {
    __shared__ u32 table[SLOTS];
    if (threadIdx.x >= 32) return;  // a second warp would have no table
    for (i64 i = blockIdx.x; i < streams; i += gridDim.x) {
        i64 n = src_nbytes[i], prefix = sized ? 4 : 0;
        u32 most = (u32)min(room, (i64)ALL);
        Stream s = {src + src_offset[i], dst + dst_offset[i], (u32)n, (u32)prefix, most, threadIdx.x};
        bool fits = n >= 0 && n >> 31 == 0 && room >= prefix;
        if (fits && s.lane < prefix) s.dst[s.lane] = (u8)(n >> 8 * s.lane);
        fits = fits && encoded(s, table);
        if (s.lane == 0) dst_nbytes[i] = fits ? (i64)s.out : -1;
    }
}
