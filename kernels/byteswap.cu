// The bytes of every item in reverse order (codecs/bytes.py).
//
//   before   src + offset[i]:   a3 a2 a1 a0  b3 b2 b1 b0 ...     items × unit bytes, chunk i
//   after    dst + i*items*unit: a0 a1 a2 a3  b0 b1 b2 b3 ...
//
// Block i serves chunk i, with any number of threads; neighbouring threads take neighbouring items. Any unit;
// 2, 4, 8 and 16 are moved as one word.
#include "gz.cuh"

template <class T> GZ_DEVICE void swap_words(const u8* src, u8* dst, i64 items) {
    for (i64 k = threadIdx.x; k < items; k += blockDim.x)
        gz_store<T>(dst + k * (i64)sizeof(T), gz_reversed(gz_load<T>(src + k * (i64)sizeof(T))));
}

GZ_KERNEL gz_byteswap(const u8* src, const i64* offset, u8* dst, i64 items, i32 unit) {
    src += offset[blockIdx.x];
    dst += (i64)blockIdx.x * items * unit;
    if (unit == 2) return swap_words<u16>(src, dst, items);
    if (unit == 4) return swap_words<u32>(src, dst, items);
    if (unit == 8) return swap_words<u64>(src, dst, items);
    if (unit == 16) return swap_words<u128>(src, dst, items);
    for (i64 k = threadIdx.x; k < items; k += blockDim.x)
        for (i32 b = 0; b < unit; b++) dst[k * unit + b] = src[k * unit + unit - 1 - b];
}
