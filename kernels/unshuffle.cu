// Shuffled chunks into the result: planes, byte order, crop, step and axes in one pass (codecs/planes.py,
// engine/device.py).
//
//   before   src + src_offset[i]: chunk i, in blocks of `blocksize` bytes, each shuffled by itself
//     none     as it is
//     bytes    a0 b0 c0 ...  a1 b1 c1 ...  a2 b2 c2 ...    a plane for each byte of an item
//     bits     bit 0 of a0 b0 c0 ... | bit 1 of them | ... | bit 0 of a1 b1 c1 ...    eight items a byte
//   between  a0 a1 a2  b0 b1 b2  c0 c1 c2 ...    decoded: items of typesize bytes, then what is left
//   after    dst + dst_base: the result
//
// What is left behind the last whole item of a block is as it is, and so is a whole block of bits whose items
// are no multiple of eight. Element j of group g, an axis, lies at byte (chunk_lo + j·step)·src_stride of the
// decoded chunk and goes to byte (out_lo + j)·dst_stride of the result. The chunk's axes lie in any order, of
// extents `shape`, and fill nbytes. unit: 0, or how many bytes to reverse together within each element.
//
// Columns [rows, 3]: planes, which are shuffle (0 none, 1 bytes, 2 bits), typesize (1 to 255), blocksize (1
// to nbytes). Columns [rows, groups]: chunk_lo, out_lo, extent. Columns [groups]: step, shape, src_stride,
// dst_stride. At most 16 groups.
//
// Blocks: rows × pitch, of 256 threads at most. A block of threads takes a tile: `width` whole items of a
// block, and with the last of them what is left. One without a tile is done at once.
//
//   width = max(TILE / typesize / 64 · 64, 64)     tiles of a block = max(⌈blocksize / typesize / width⌉, 1)
//   pitch >= ⌈nbytes / blocksize⌉ · tiles of a block, in every row
//
// A tile of which nothing is selected is not read. Otherwise its planes come to shared memory, 16 bytes a
// thread at a time, from sm_80 on without a stop in registers; bits are transposed on the way. Meanwhile one
// thread folds the axes, from the innermost, which is bytes: those that are contiguous in both places become
// one group. Then every thread takes 16 decoded bytes at a time, a cell, and cuts them where runs end, or 16
// bytes of the result do:
//
//   decoded    |...............|...............|...............|       cells
//   selected          [=====================================]          a run: side by side in both places
//   result     .......==|==============|==============|=====...        pieces: cut where 16 bytes begin
//
// A piece belongs to the cell that it begins in. Those of 16 bytes are put together from words of the planes,
// wherever they begin there, and stored at once. Shorter ones, at the ends of runs and tiles, are stored in
// words that all ends are multiples of. Byte by byte go chunks of 2 GiB, and elements that are swapped across
// the end of a tile.
#include "gz.cuh"

constexpr u32 TILE = 16384;  // bytes of planes in shared memory, as codecs/planes.py counts
constexpr u32 REST = 256;    // then the bytes behind the last item
constexpr u32 MOST_GROUPS = 16;

// The part of a chunk that a block of threads takes.
struct Tile {
    i64 src, src_end;  // of the shuffled block that it is of; of the chunk
    u64 start;         // its first byte in the decoded chunk
    u64 items, first;  // how many the block has, and where the tile's begin
    u32 count, rest;   // the tile's items, and bytes behind the block's last one
    u32 shuffle, typesize, width;
};

// An axis of the chunk, as the parameters say.
struct Axis {
    i64 lo, out_lo, extent, step, shape, src_stride, dst_stride;
    i64 begin, end;  // the sums over all axes: where the first and the last selected element begin, in bytes
};

// Axes that are contiguous in both places.
struct alignas(16) Group {
    u32 shape, by_shape;  // by_...: (2^32 - 1) / it, for division by multiplication
    u32 at;               // the coordinate of the tile's first byte
    u32 lo, span;         // the first selected coordinate, and how many from there to the last
    u32 step, by_step;
    i64 dst_stride;
};

struct Box {
    Group group[MOST_GROUPS + 1];  // the innermost first: bytes, side by side in both places
    i64 base;                      // of the first selected byte in the result
    u32 groups, log_word;          // words of 1 << log_word bytes make up every piece
    u32 byte_wise;
};

// Decoded bytes in shared memory: the k-th is byte k / size of plane k % size.
struct Planes {
    const u8* plane;
    u32 width, size, by_size;
};

GZ_DEVICE u128 joined(u32 a, u32 b, u32 c, u32 d) { return u128{(u64)b << 32 | a, (u64)d << 32 | c}; }

// Four bytes at any place. Of the word behind, some are looked at too.
GZ_DEVICE u32 four(const u8* p) {
    u32 skew = (u32)gz_address(p) & 3;
    const u32* word = (const u32*)(p - skew);
    return __funnelshift_r(word[0], word[1], 8 * skew);
}

// ---- to shared memory

GZ_DEVICE void fetch_sixteen(u8* to, const u8* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    u32 shared = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
#else
    *(u128*)to = *(const u128*)from;
#endif
}

// Wait for what this thread fetched.
GZ_DEVICE void fetched() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// `count` bytes of each of `size` planes, which are `pitch` bytes apart there and `width` here. What lies
// behind them in the chunk, which goes as far as `end`, may come along.
GZ_DEVICE void fetch_bytes(const u8* src, const u8* end, u64 pitch, u32 size, u8* plane, u32 width,
                           u32 count) {
    u32 parts = (count + 15) / 16;
    if (!parts) return;
    u32 inverse = gz_inverted(parts);
    for (u32 i = threadIdx.x; i < size * parts; i += blockDim.x) {
        u32 b = gz_divided(i, parts, inverse), at = (i - b * parts) * 16;
        const u8* from = src + b * pitch + at;
        u8* to = plane + b * width + at;
        u32 skew = (u32)gz_address(from) & 3;
        i64 left = end - from;
        if (left >= 16 && ((u32)gz_address(from) & 15) == 0)
            fetch_sixteen(to, from);
        else if (left >= 20)
            *(u128*)to = gz_sixteen(from, skew, false);
        else
#pragma unroll 1
            for (u32 k = 0; k < 16 && k < left; k++) to[k] = from[k];
    }
}

// The same for planes of bits, `pitch` bytes apart: eight of them make one of bytes. A thread takes four
// bytes of each of the eight, which are 32 items.
GZ_DEVICE void fetch_bits(const u8* src, const u8* end, u64 pitch, u32 size, u8* plane, u32 width,
                          u32 count) {
    u32 parts = (count + 31) / 32;
    if (!parts) return;
    u32 inverse = gz_inverted(parts);
    for (u32 i = threadIdx.x; i < size * parts; i += blockDim.x) {
        u32 b = gz_divided(i, parts, inverse), at = (i - b * parts) * 4, row[8];
        const u8* from = src + 8 * b * pitch + at;
        i64 left = end - (from + 7 * pitch);  // in the last one
        if (left >= 4 && ((gz_address(from) | pitch) & 3) == 0) {
            for (u32 k = 0; k < 8; k++, from += pitch) row[k] = *(const u32*)from;
        } else if (left >= 8) {
            for (u32 k = 0; k < 8; k++, from += pitch) row[k] = four(from);
        } else {
            for (u32 k = 0; k < 8; k++, from += pitch) {
                row[k] = 0;
#pragma unroll 1
                for (u32 j = 0; j < 4 && j < end - from; j++) row[k] |= (u32)from[j] << 8 * j;
            }
        }
        // Byte c of row k holds bit k of items 8c to 8c + 7; then byte c of row j is item 8c + j.
        gz_transpose_bits(row);
        u32 word[8];
        gz_transpose_bytes(row, word[0], word[2], word[4], word[6]);
        gz_transpose_bytes(row + 4, word[1], word[3], word[5], word[7]);
        u128* to = (u128*)(plane + b * width + 8 * at);
        to[0] = joined(word[0], word[1], word[2], word[3]);
        to[1] = joined(word[4], word[5], word[6], word[7]);
    }
}

// ---- what goes where

// One thread: a tile of the chunk at `src`; where there is none, one of nothing.
GZ_DEVICE Tile cut(i64 src, const i64* planes, u64 nbytes, u32 number) {
    Tile tile = {};
    u64 typesize = (u64)planes[1], blocksize = (u64)planes[2];
    if (typesize - 1 >= 255 || blocksize - 1 >= nbytes) return tile;
    tile.shuffle = (u32)planes[0], tile.typesize = (u32)typesize;
    tile.width = max(TILE / tile.typesize / 64 * 64, 64u);
    u64 tiles = max((blocksize / typesize + tile.width - 1) / tile.width, (u64)1);
    u64 block = number / tiles, start = block * blocksize;
    if (start >= nbytes) return tile;
    u64 size = min(blocksize, nbytes - start);
    tile.src = src + (i64)start, tile.src_end = src + (i64)nbytes;
    tile.items = size / typesize, tile.first = (number - block * tiles) * tile.width;
    if (tile.first && tile.first >= tile.items) return tile;
    tile.count = (u32)min(tile.items - tile.first, (u64)tile.width);
    tile.rest = tile.first + tile.count == tile.items ? (u32)(size - tile.items * typesize) : 0;
    tile.start = start + tile.first * typesize;
    if (tile.shuffle != 1 && (tile.shuffle != 2 || tile.items % 8)) {  // bytes, one behind the other
        tile.shuffle = 0, tile.src += (i64)(tile.first * typesize), tile.first = 0;
        tile.count = tile.count * tile.typesize + tile.rest, tile.rest = 0, tile.typesize = 1;
    }
    return tile;
}

// One thread: the box of a row, as its tile sees it.
GZ_DEVICE void fold(Box& box, const Axis* axis, const Tile& tile, const u8* dst, i64 dst_base, u64 nbytes,
                    u32 groups, u32 itemsize, u32 unit) {
    box.base = dst_base;
    for (u32 g = 0; g < groups; g++) box.base += axis[g].out_lo * axis[g].dst_stride;
    box.groups = 0, box.byte_wise = 1;
    if (nbytes >> 31) return;

    u32 bytes = tile.count * tile.typesize, left = (u32)tile.start;
    u64 ends = (gz_address(dst) + (u64)box.base) | tile.start | bytes | tile.rest | 16;
    u32 shape = itemsize, lo = 0, extent = itemsize, step = 1, g = groups;  // of the group that grows
    i64 stride = 1;
    for (u64 upto = itemsize;; upto *= (u64)axis[g].shape) {
        bool last = upto >= nbytes;
        u32 tries = 0;  // the next axis outwards: most often it is the one before
        for (; !last && tries < groups; tries++) {
            g = g ? g - 1 : groups - 1;
            if (axis[g].shape > 1 && (u64)axis[g].src_stride == upto) break;
        }
        if (last ? upto > nbytes : tries == groups) return;  // there are gaps
        if (!last && axis[g].extent == 1) {
            lo += (u32)axis[g].lo * shape, shape *= (u32)axis[g].shape;
            continue;
        }
        if (!last && extent == shape && axis[g].step == 1 && axis[g].dst_stride == stride * shape) {
            lo = (u32)axis[g].lo * shape, extent = (u32)axis[g].extent * shape, shape *= (u32)axis[g].shape;
            continue;
        }
        u32 span = (extent - 1) * step + 1;
        u32 n = box.groups++;
        box.group[n] = {shape, gz_inverted(shape), left % shape, lo, span, step, gz_inverted(step), stride};
        ends |= n ? (u64)stride : lo | extent | (last ? 0 : shape);
        left /= shape;
        if (last) break;
        shape = (u32)axis[g].shape, lo = (u32)axis[g].lo, extent = (u32)axis[g].extent;
        step = (u32)axis[g].step, stride = axis[g].dst_stride;
    }
    box.log_word = (u32)__ffs((i32)(ends & 31)) - 1;
    box.byte_wise = unit > 1 && ((unit & (unit - 1)) || unit >> box.log_word > 1);
}

// Bytes of a tile that are all selected, or all not, and go side by side.
struct Run {
    u32 nbytes;  // from here to its end, or to some place before
    bool selected, begins;
    i64 dst;
};

// What begins at byte `at` of the tile, or goes on there.
GZ_DEVICE Run locate(const Box& box, u32 at) {
    const Group& bytes = box.group[0];
    u32 coordinate = bytes.at + at, carry = 0;
    if (box.groups > 1) {
        carry = gz_divided(coordinate, bytes.shape, bytes.by_shape);
        coordinate -= carry * bytes.shape;
    }
    u32 within = coordinate - bytes.lo;
    Run run = {bytes.shape - coordinate, within < bytes.span, within == 0, box.base + within};
    if (run.selected) run.nbytes = bytes.span - within;
    if (coordinate < bytes.lo) run.nbytes = bytes.lo - coordinate;
#pragma unroll 1
    for (u32 g = 1; g < box.groups; g++) {
        const Group& group = box.group[g];
        coordinate = group.at + carry;
        if (g + 1 < box.groups) {
            carry = gz_divided(coordinate, group.shape, group.by_shape);
            coordinate -= carry * group.shape;
        }
        within = coordinate - group.lo;
        if (within >= group.span) run.selected = false;
        if (group.step > 1) {
            u32 j = gz_divided(within, group.step, group.by_step);
            if (j * group.step != within) run.selected = false;
            within = j;
        }
        run.dst += (i64)((u64)within * (u64)group.dst_stride);  // of no meaning where nothing is selected
    }
    return run;
}

// ---- from shared memory

// Decoded bytes from the `at`-th on, fetched one by one. SIZE is from.size, or 0.
template <u32 SIZE, class WORD> GZ_DEVICE WORD gathered(const Planes& from, u32 at) {
    const u32 size = SIZE ? SIZE : from.size;
    u32 item = SIZE ? at / size : gz_divided(at, size, from.by_size), b = at - item * size;
    const u8* p = from.plane + b * from.width + item;
    WORD word = 0;
    for (u32 k = 0; k < sizeof(WORD); k++, p += from.width) {
        word = (WORD)(word | (WORD)*p << 8 * k);
        if (++b == size) b = 0, p -= size * from.width - 1;
    }
    return word;
}

// 16 decoded bytes from the `at`-th on: 16 / SIZE of each plane, that of the first one first.
template <u32 SIZE> GZ_DEVICE u128 sixteen(const Planes& from, u32 at) {
    if constexpr (SIZE == 0 || SIZE > 8) {
        return u128{gathered<SIZE, u64>(from, at), gathered<SIZE, u64>(from, at + 8)};
    } else if constexpr (SIZE == 1) {
        return gz_sixteen(from.plane + at, at & 3, (at & 15) == 0);
    } else {
        const u8* p[SIZE];
        for (u32 j = 0; j < SIZE; j++) {
            u32 b = at % SIZE + j;
            p[j] = from.plane + b % SIZE * from.width + at / SIZE + b / SIZE;
        }
        u32 w[4];
        if constexpr (SIZE == 2) {
            u32 low[2], high[2];
            for (u32 j = 0; j < 2; j++) {
                if ((at & 15) == 0) {
                    u64 both = *(const u64*)p[j];
                    low[j] = (u32)both, high[j] = (u32)(both >> 32);
                } else {
                    low[j] = four(p[j]), high[j] = four(p[j] + 4);
                }
            }
            w[0] = __byte_perm(low[0], low[1], 0x5140), w[1] = __byte_perm(low[0], low[1], 0x7362);
            w[2] = __byte_perm(high[0], high[1], 0x5140), w[3] = __byte_perm(high[0], high[1], 0x7362);
        } else if constexpr (SIZE == 4) {
            u32 in[4];
            for (u32 j = 0; j < 4; j++) in[j] = (at & 15) == 0 ? *(const u32*)p[j] : four(p[j]);
            gz_transpose_bytes(in, w[0], w[1], w[2], w[3]);
        } else {
            u32 two[4], in[2];  // bytes 2j and 2j + 1 of both items
            for (u32 j = 0; j < 8; j++) {
                bool even = (at & 15) == 0;
                in[j & 1] = even ? *(const u16*)p[j] : (u32)p[j][0] | (u32)p[j][1] << 8;
                if (j & 1) two[j / 2] = __byte_perm(in[0], in[1], 0x5140);
            }
            w[0] = __byte_perm(two[0], two[1], 0x5410), w[1] = __byte_perm(two[2], two[3], 0x5410);
            w[2] = __byte_perm(two[0], two[1], 0x7632), w[3] = __byte_perm(two[2], two[3], 0x7632);
        }
        return joined(w[0], w[1], w[2], w[3]);
    }
}

// ---- to the result

// A piece of fewer than 16 bytes.
template <class WORD> GZ_DEVICE void put_piece(const Planes& from, u32 at, u8* to, u32 nbytes, u32 unit) {
#pragma unroll 1
    for (u32 k = 0; k < nbytes; k += sizeof(WORD))
        *(WORD*)(to + k) = gz_swapped(gathered<0, WORD>(from, at + k), unit);
}

// Bytes `begin` to `end` of the tile, which are those of the planes. SIZE is from.size, or 0.
template <u32 SIZE>
GZ_DEVICE void put(const Box& box, const Planes& from, u32 begin, u32 end, u8* dst, u32 unit) {
    for (u32 cell = begin + 16 * threadIdx.x; cell < end; cell += 16 * blockDim.x) {
        u32 at = cell, next = min(cell + 16, end);
        while (at < next) {
            Run run = locate(box, at);
            u32 left = min(run.nbytes, end - at);
            if (run.selected) {
                u8* to = dst + run.dst;
                u32 past = (u32)gz_address(to) & 15;
                if (past && at == cell && cell > begin && !run.begins) {  // a piece of the cell before
                    u32 behind = min(16 - past, left);
                    to += behind, at += behind, left -= behind, past = 0;
                    if (!left || at >= next) continue;
                }
                left = min(left, 16 - past);
                if (left == 16) {
                    u128 word = sixteen<SIZE>(from, at - begin);
                    *(u128*)to = unit ? gz_swapped(word, unit) : word;
                } else {
                    if (box.log_word == 0) put_piece<u8>(from, at - begin, to, left, unit);
                    if (box.log_word == 1) put_piece<u16>(from, at - begin, to, left, unit);
                    if (box.log_word == 2) put_piece<u32>(from, at - begin, to, left, unit);
                    if (box.log_word == 3) put_piece<u64>(from, at - begin, to, left, unit);
                }
            }
            at += left;
        }
    }
}

// The same, byte by byte, whatever the layout.
GZ_DEVICE void put_bytes(const Axis* axis, u64 start, const Planes& from, u32 begin, u32 end, u8* dst,
                         u32 groups, u32 itemsize, u32 unit) {
    for (u32 at = begin + threadIdx.x; at < end; at += blockDim.x) {
        u64 place = start + at;
        u32 b = (u32)(place % itemsize);
        if (unit) b += unit - 1 - 2 * (b % unit);
        i64 to = b;
        bool selected = true;
#pragma unroll 1
        for (u32 g = 0; g < groups; g++) {
            i64 within = (i64)(place / (u64)axis[g].src_stride % (u64)axis[g].shape) - axis[g].lo;
            i64 j = within / axis[g].step;
            if (within < 0 || j >= axis[g].extent || j * axis[g].step != within) selected = false;
            to += (axis[g].out_lo + j) * axis[g].dst_stride;
        }
        if (selected) dst[to] = gathered<0, u8>(from, at - begin);
    }
}

GZ_KERNEL __launch_bounds__(256)
gz_unshuffle(const u8* src, const i64* src_offset, const i64* planes, u8* dst, i64 dst_base,
             const i64* chunk_lo, const i64* out_lo, const i64* extent, const i64* step, const i64* shape,
             const i64* src_stride, const i64* dst_stride, i64 nbytes, i32 groups, i32 itemsize, i32 unit,
             i32 pitch) {
    __shared__ u128 memory[(TILE + REST) / 16 + 1];  // words are looked at as far as four bytes behind
    __shared__ Axis axis[MOST_GROUPS];
    __shared__ Tile shared_tile;
    __shared__ Box box;
    u8* plane = (u8*)memory;
    i64 row = blockIdx.x / (u32)pitch;
    for (i32 g = (i32)threadIdx.x; g < groups; g += (i32)blockDim.x) {
        i64 at = row * groups + g;
        Axis one = {chunk_lo[at], out_lo[at], extent[at], step[g], shape[g], src_stride[g], dst_stride[g]};
        one.begin = one.lo * one.src_stride;
        one.end = one.begin + (one.extent - 1) * one.step * one.src_stride;
        if (one.extent <= 0) one.end = -(1ll << 58);  // then all of them together end before the chunk
        axis[g] = one;
    }
    if (threadIdx.x + 1 == blockDim.x)
        shared_tile = cut(src_offset[row], planes + 3 * row, (u64)nbytes, blockIdx.x % (u32)pitch);
    __syncthreads();

    Tile tile = shared_tile;
    u32 bytes = tile.count * tile.typesize;
    i64 start = (i64)tile.start, begin = 0, end = itemsize;
    for (i32 g = 0; g < groups; g++) begin += axis[g].begin, end += axis[g].end;
    if (bytes + tile.rest == 0 || start >= end || start + bytes + tile.rest <= begin) return;  // all threads

    const u8 *from = src + tile.src, *last = src + tile.src_end;
    if (tile.shuffle == 2)
        fetch_bits(from + tile.first / 8, last, tile.items / 8, tile.typesize, plane, tile.width, tile.count);
    else
        fetch_bytes(from + tile.first, last, tile.items, tile.typesize, plane, tile.width, tile.count);
    for (u32 i = threadIdx.x; i < tile.rest; i += blockDim.x)
        plane[TILE + i] = from[tile.items * tile.typesize + i];
    if (threadIdx.x == 0)
        fold(box, axis, tile, dst, dst_base, (u64)nbytes, (u32)groups, (u32)itemsize, (u32)unit);
    fetched();
    __syncthreads();

    for (u32 part = 0; part < 2; part++) {  // the items, then what is left
        u32 size = part ? 1 : tile.typesize;
        u32 first = part ? bytes : 0, behind = first + (part ? tile.rest : bytes);
        Planes held = {plane + (part ? TILE : 0), tile.width, size, gz_inverted(size)};
        if (box.byte_wise)
            put_bytes(axis, tile.start, held, first, behind, dst + dst_base, (u32)groups, (u32)itemsize,
                      (u32)unit);
        else if (size == 1)
            put<1>(box, held, first, behind, dst, (u32)unit);
        else if (size == 2)
            put<2>(box, held, first, behind, dst, (u32)unit);
        else if (size == 4)
            put<4>(box, held, first, behind, dst, (u32)unit);
        else if (size == 8)
            put<8>(box, held, first, behind, dst, (u32)unit);
        else if (size == 16)
            put<16>(box, held, first, behind, dst, (u32)unit);
        else
            put<0>(box, held, first, behind, dst, (u32)unit);
    }
}
