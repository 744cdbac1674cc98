// Boxes of decoded chunks into the result: crop, step, transpose, byte order and missing chunks in one pass.
//
//   before   src + src_offset[i]: chunk i, decoded; element j of group g at byte (chunk_lo + j·step)·src_stride
//   after    dst + dst_base:      the result;       element j of group g at byte (out_lo + j)·dst_stride
//
// A group is an axis of the result, or for a table of points several: there element j is point
// k = chunk_lo + j, at byte src_points[table + k] of the chunk and dst_points[table + k] of the result.
// table[g] < 0: a span. Columns [rows, groups]: chunk_lo, out_lo, extent. Columns [groups]: step, src_stride,
// dst_stride, table. src_offset[i] < 0: every element is `fill`, of itemsize bytes. unit: 0, or how many bytes
// to reverse together within each element; `fill` is taken as it is.
//
// Blocks: rows × tiles; block b serves tile b % tiles of row b / tiles. Any number of threads, 16 groups.
//
// The first threads fetch the row's columns, one folds them: the bytes of an element become one more group,
// groups that are contiguous in both places become one, and groups of one element an offset. Then the
// innermost group is cut into the widest words (16 bytes at most) that all strides, offsets and addresses are
// multiples of, and every thread moves words. Addresses that come from a table of points are looked at word by word.
// Index arithmetic is 32-bit where the words can be so counted.
#include "gz.cuh"

struct Group {
    i64 extent, src_stride, dst_stride;
    i64 table;    // of its first point, or -1
    u32 inverse;  // (2^32 - 1) / extent: division by multiplication
};

struct Box {
    Group group[17];  // outermost first; the last one is bytes, then words, side by side in both places
    i64 src, dst;     // offsets of the first word
    i64 words;
    i32 groups, log_word;
    i32 filled;
    alignas(16) u8 pattern[16];  // `fill`, repeated, where that fits
};

// The kernel's parameters that every word needs.
struct Places {
    const u8* src;
    u8* dst;
    const i64 *src_points, *dst_points;
    const u8* fill;
    i32 itemsize, unit;
};

// Where a word lies: in the chunk, in the result, and its first byte in the innermost group.
struct Word {
    i64 src, dst, inner;
};

template <class INDEX> GZ_DEVICE Word locate(const Box& box, const Places& at, INDEX index) {
    Word word = {box.src, box.dst, 0};
    for (i32 g = box.groups - 1; g >= 0; g--) {
        const Group& group = box.group[g];
        INDEX j = index;
        if (g) {
            INDEX extent = (INDEX)group.extent, quotient;
            if (sizeof(INDEX) == 4) {  // one too small at most
                quotient = (INDEX)__umulhi((u32)index, group.inverse);
                if (index - quotient * extent >= extent) quotient++;
            } else {
                quotient = index / extent;
            }
            j = index - quotient * extent;
            index = quotient;
        }
        if (g == box.groups - 1) word.inner = (i64)j << box.log_word;
        word.src += group.table < 0 ? (i64)j * group.src_stride : at.src_points[group.table + (i64)j];
        word.dst += group.table < 0 ? (i64)j * group.dst_stride : at.dst_points[group.table + (i64)j];
    }
    return word;
}

// Byte `at` of an inner run, which is whole elements: its place once the bytes of every unit are reversed.
GZ_DEVICE i64 mirrored(i64 at, i32 unit) { return unit ? at + unit - 1 - 2 * (at % unit) : at; }

template <class WORD, class INDEX>
GZ_DEVICE void move_words(const Box& box, const Places& at, i64 first, i64 last) {
    const u64 rest = sizeof(WORD) - 1;
    for (i64 w = first + threadIdx.x; w < last; w += blockDim.x) {
        Word word = locate<INDEX>(box, at, (INDEX)w);
        const u8* from = at.src + word.src;
        u8* to = at.dst + word.dst;
        if (box.filled) {
            if (rest && (gz_address(to) & rest) == 0)
                *(WORD*)to = *(const WORD*)(box.pattern + (word.inner & 15));
            else
                for (u32 b = 0; b <= rest; b++) to[b] = at.fill[(word.inner + b) % at.itemsize];
        } else if (rest && ((gz_address(to) | gz_address(from)) & rest) == 0) {
            *(WORD*)to = gz_swapped(*(const WORD*)from, (u32)at.unit);
        } else {
            for (u32 b = 0; b <= rest; b++) to[b] = from[mirrored(word.inner + b, at.unit) - word.inner];
        }
    }
}

template <class WORD> GZ_DEVICE void move_box(const Box& box, const Places& at, i64 first, i64 last) {
    if (box.words >> 32)
        move_words<WORD, u64>(box, at, first, last);
    else
        move_words<WORD, u32>(box, at, first, last);
}

// One thread: fold the groups of the row, which lie in box.group, and choose the word.
GZ_DEVICE void fold(Box& box, const Places& at, i32 groups) {
    i64 bytes = at.itemsize;
    for (i32 g = 0; g < groups; g++) bytes *= box.group[g].extent;
    box.words = 0, box.groups = 1, box.log_word = 0;
    if (bytes <= 0) return;

    // From the innermost, into the end of the array: `top` is the group that the next one may join.
    i32 top = groups;
    box.group[top] = Group{at.itemsize, box.filled ? 0 : 1, 1, -1, 0};
    for (i32 g = groups - 1; g >= 0; g--) {
        Group next = box.group[g];
        if (next.extent == 1) {
            if (next.table >= 0) box.dst += at.dst_points[next.table];
            if (next.table >= 0 && !box.filled) box.src += at.src_points[next.table];
            continue;
        }
        Group& inner = box.group[top];
        bool spans = next.table < 0 && inner.table < 0;
        if (spans && next.dst_stride == inner.dst_stride * inner.extent &&
            next.src_stride == inner.src_stride * inner.extent)
            inner.extent *= next.extent;
        else
            box.group[--top] = next;
    }
    i32 kept = groups + 1 - top;
    if (top)
        for (i32 g = 0; g < kept; g++) box.group[g] = box.group[top + g];

    Group& inner = box.group[kept - 1];
    u64 sum = (u64)inner.extent | gz_address(at.dst) | (u64)box.dst | 16;
    if (!box.filled) sum |= gz_address(at.src) | (u64)box.src;
    for (i32 g = 0; g + 1 < kept; g++) sum |= (u64)box.group[g].src_stride | (u64)box.group[g].dst_stride;
    if (box.filled && 16 % at.itemsize) sum |= 1;
    i32 log_word = 0;
    while (!(sum >> log_word & 1)) log_word++;
    bool splits = (1 << log_word) < at.unit || (at.unit & (at.unit - 1));
    if (splits && !box.filled) log_word = 0;  // a word holds whole units
    if (box.filled && log_word)
        for (i32 b = 0; b < 16; b++) box.pattern[b] = at.fill[b % at.itemsize];
    inner.extent >>= log_word, inner.dst_stride <<= log_word, inner.src_stride <<= log_word;
    for (i32 g = 0; g < kept; g++) box.group[g].inverse = (u32)(0xFFFFFFFFull / (u64)box.group[g].extent);
    box.groups = kept, box.log_word = log_word, box.words = bytes >> log_word;
}

GZ_KERNEL gz_scatter(const u8* src, u8* dst, const i64* src_offset, const i64* chunk_lo, const i64* out_lo,
                     const i64* extent, const i64* step, const i64* src_stride, const i64* dst_stride,
                     const i64* table, const i64* src_points, const i64* dst_points, const u8* fill,
                     i64 dst_base, i32 groups, i32 itemsize, i32 unit, i32 tiles) {
    __shared__ Box box;
    i64 row = blockIdx.x / (u32)tiles, tile = blockIdx.x % (u32)tiles;
    bool filled = src_offset[row] < 0;
    Places at = {src, dst, src_points, dst_points, fill, itemsize, unit};
    for (i32 g = (i32)threadIdx.x; g < groups; g += (i32)blockDim.x) {
        bool points = table[g] >= 0;
        Group& group = box.group[g];
        group.extent = extent[row * groups + g];
        group.table = points ? table[g] + chunk_lo[row * groups + g] : -1;
        group.src_stride = points || filled ? 0 : step[g] * src_stride[g];
        group.dst_stride = points ? 0 : dst_stride[g];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        box.filled = filled;
        box.src = filled ? 0 : src_offset[row], box.dst = dst_base;
        for (i32 g = 0; g < groups; g++) {
            if (table[g] >= 0) continue;
            if (!filled) box.src += chunk_lo[row * groups + g] * src_stride[g];
            box.dst += out_lo[row * groups + g] * dst_stride[g];
        }
        fold(box, at, groups);
    }
    __syncthreads();
    i64 share = (box.words + tiles - 1) / tiles;
    i64 first = min(tile * share, box.words), last = min(first + share, box.words);
    if (box.log_word == 0) move_box<u8>(box, at, first, last);
    if (box.log_word == 1) move_box<u16>(box, at, first, last);
    if (box.log_word == 2) move_box<u32>(box, at, first, last);
    if (box.log_word == 3) move_box<u64>(box, at, first, last);
    if (box.log_word == 4) move_box<u128>(box, at, first, last);
}
