// Integers scaled to floats, as numcodecs `fixedscaleoffset` decodes (codecs/fixedscaleoffset.py).
//
//   before   src + offset[i]:           items integers, each stored_size bytes, signed or not
//   after    dst + i*items*size:        each value / scale + shift in f64; rounded to f32 if size is 4
//
// Blocks: chunks × tiles; block b serves tile b % tiles of chunk b / tiles. Any number of threads. Division
// and sum round once each, as in NumPy: compiled without contraction.
#include "gz.cuh"

GZ_DEVICE f64 integer_at(const u8* p, i32 size, i32 is_signed) {
    if (size == 1) return is_signed ? (f64)(i8)*p : (f64)*p;
    if (size == 2) return is_signed ? (f64)(i16)gz_load<u16>(p) : (f64)gz_load<u16>(p);
    if (size == 4) return is_signed ? (f64)(i32)gz_load<u32>(p) : (f64)gz_load<u32>(p);
    return is_signed ? (f64)(i64)gz_load<u64>(p) : (f64)gz_load<u64>(p);
}

GZ_KERNEL gz_fixedscaleoffset(const u8* src, const i64* offset, u8* dst, i64 items, i32 stored_size,
                              i32 is_signed, i32 size, f64 scale, f64 shift, i32 tiles) {
    i64 chunk = blockIdx.x / (u32)tiles, tile = blockIdx.x % (u32)tiles;
    i64 share = (items + tiles - 1) / tiles;
    i64 first = min(tile * share, items), last = min(first + share, items);
    src += offset[chunk];
    dst += chunk * items * size;
    for (i64 k = first + threadIdx.x; k < last; k += blockDim.x) {
        f64 value = integer_at(src + k * stored_size, stored_size, is_signed) / scale + shift;
        if (size == 4)
            gz_store<f32>(dst + k * 4, (f32)value);
        else
            gz_store<f64>(dst + k * 8, value);
    }
}
