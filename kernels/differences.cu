// Differences between neighbours, as numcodecs `delta` encodes integers (codecs/delta.py). kernels/delta.cu
// is the way back.
//
//   before   src + i*src_pitch: x0 x1 x2 ...              chunk i: items values of `size` bytes
//   after    dst + i*dst_pitch: x0  x1-x0  x2-x1 ...      items values of stored_size bytes
//
// A difference is a value of `size` bytes and wraps round there, as NumPy's does. Only then it becomes one of
// stored_size bytes: it is cut, or extended, by sign if `is_signed`, which says so of the values before. The
// first value becomes one of stored_size bytes likewise; but where the stored type is signed and does not
// hold it, NumPy refuses, so the caller must not ask. Sizes are 1, 2, 4 or 8.
//
// Blocks: chunks × tiles; block b serves chunk b / tiles. Any number of tiles and threads. A thread takes 16
// bytes at a time, of what is read or what is written, whichever is more: its values and the one before. With
//
//   tiles = ⌈items · max(size, stored_size) / 16384⌉
//
// 256 threads do so four times. Everything is right at any address; it is fast at multiples of 16.
#include "gz.cuh"

template <class T, u32 N> struct alignas(sizeof(T) * N) Values {
    T value[N];
};

template <class PLAIN, class STORED>
GZ_DEVICE void differences(const u8* src, u8* dst, i64 items, u64 sign, i64 unit, i64 step) {
    constexpr u32 N = 16 / (sizeof(PLAIN) > sizeof(STORED) ? sizeof(PLAIN) : sizeof(STORED));
    // As one of 64 bits, where that is wider.
    auto stored = [sign](PLAIN value) {
        if constexpr (sizeof(STORED) > sizeof(PLAIN)) return (STORED)(((u64)value ^ sign) - sign);
        return (STORED)value;
    };
#pragma unroll 1
    for (; unit * N < items; unit += step) {
        const u8* from = src + unit * (i64)(N * sizeof(PLAIN));
        u8* to = dst + unit * (i64)(N * sizeof(STORED));
        PLAIN before = unit ? gz_load<PLAIN>(from - sizeof(PLAIN)) : 0;
        if ((unit + 1) * N <= items) {
            auto in = gz_load<Values<PLAIN, N>>(from);
            Values<STORED, N> out;
            for (u32 k = 0; k < N; k++) {
                out.value[k] = stored((PLAIN)(in.value[k] - before));
                before = in.value[k];
            }
            gz_store(to, out);
        } else {
#pragma unroll 1
            for (i64 left = items - unit * N; left; left--, from += sizeof(PLAIN), to += sizeof(STORED)) {
                PLAIN value = gz_load<PLAIN>(from);
                gz_store(to, stored((PLAIN)(value - before)));
                before = value;
            }
        }
    }
}

template <class PLAIN>
GZ_DEVICE void differences(const u8* src, u8* dst, i64 items, u64 sign, i64 unit, i64 step, i32 stored_size) {
    if (stored_size == 1) differences<PLAIN, u8>(src, dst, items, sign, unit, step);
    if (stored_size == 2) differences<PLAIN, u16>(src, dst, items, sign, unit, step);
    if (stored_size == 4) differences<PLAIN, u32>(src, dst, items, sign, unit, step);
    if (stored_size == 8) differences<PLAIN, u64>(src, dst, items, sign, unit, step);
}

GZ_KERNEL gz_differences(const u8* src, u8* dst, i64 src_pitch, i64 dst_pitch, i64 items, i32 size,
                         i32 is_signed, i32 stored_size, i32 tiles) {
    i64 chunk = blockIdx.x / (u32)tiles, unit = (i64)(blockIdx.x % (u32)tiles) * blockDim.x + threadIdx.x;
    i64 step = (i64)tiles * blockDim.x;
    u64 sign = is_signed ? 1ull << (8 * size - 1) : 0;
    src += chunk * src_pitch;
    dst += chunk * dst_pitch;
    if (size == 1) differences<u8>(src, dst, items, sign, unit, step, stored_size);
    if (size == 2) differences<u16>(src, dst, items, sign, unit, step, stored_size);
    if (size == 4) differences<u32>(src, dst, items, sign, unit, step, stored_size);
    if (size == 8) differences<u64>(src, dst, items, sign, unit, step, stored_size);
}
