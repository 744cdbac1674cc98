// Values as floats of another type, scaled and shifted on the way (engine/convert.py).
//
//   before   src:   count values of `size` bytes; kind 0: bool, 1: unsigned, 2: signed, 3: float of 2, 4 or 8
//   after    dst:   count floats of `to` bytes, 2, 4 or 8
//
//   value → f32 → · scale → + offset → f16, f32         each arrow rounds once, to nearest, ties to even
//   value → f64 → · scale → + offset → f64
//
// Where `to` is not 8, scale and offset are f32 values. A scale of 1 and an offset of -0.0 change nothing. Every
// NaN becomes the positive quiet one without payload: a GPU and a processor move payloads differently. A byte
// of a bool that is not 0 is 1. dst may be src where values have the same size.
//
// Any number of blocks and threads; neighbouring threads take neighbouring fours of values, which are one or two
// words of 16 bytes at most. Unaligned, they take single values.
#include "gz.cuh"

struct Bool {
    u8 bits;
};

struct Half {
    u16 bits;
};

template <class T> struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) Four {
    T value[4];
};

template <class T> struct RealOf {
    typedef f32 type;
};
template <> struct RealOf<f64> {
    typedef f64 type;
};

// Exact. Halfs below 2^-14 have no leading one: they count from the exponent of 1 with it, and it is taken off.
GZ_DEVICE f32 widened(u16 half) {
    u32 bits = (u32)(half & 0x7FFF) << 13, sign = (u32)(half & 0x8000) << 16;
    if (half & 0x7C00)
        bits += (bits >> 23 == 31 ? 224u : 112u) << 23;
    else
        bits = __float_as_uint(__uint_as_float(bits + (113u << 23)) - __uint_as_float(113u << 23));
    return __uint_as_float(bits | sign);
}

GZ_DEVICE u16 narrowed(f32 value) {
    u32 bits = __float_as_uint(value), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000) return 0x7E00;
    if (size >= 0x477FF000) return (u16)(sign | 0x7C00);  // from 65520 on, half way to what would come next
    if (size < 0x38800000)                                // in steps of 2^-24, which are those of floats from 0.5 on
        return (u16)(sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3F000000));
    return (u16)(sign | ((size - (112u << 23) + 0xFFF + (size >> 13 & 1)) >> 13));
}

template <class REAL, class T> GZ_DEVICE REAL real_of(T value) { return (REAL)value; }
template <class REAL> GZ_DEVICE REAL real_of(Bool value) { return (REAL)(value.bits != 0); }
template <class REAL> GZ_DEVICE REAL real_of(Half value) { return (REAL)widened(value.bits); }

GZ_DEVICE void put(f32 value, Half& to) { to.bits = narrowed(value); }
GZ_DEVICE void put(f32 value, f32& to) { to = value != value ? __uint_as_float(0x7FC00000) : value; }
GZ_DEVICE void put(f64 value, f64& to) {
    to = value != value ? __longlong_as_double(0x7FF8000000000000ll) : value;
}

template <class T, class TO> GZ_DEVICE void convert(const u8* src, u8* dst, i64 count, f64 scale, f64 offset) {
    typedef typename RealOf<TO>::type REAL;
    const REAL factor = (REAL)scale, shift = (REAL)offset;
    bool aligned = gz_address(src) % alignof(Four<T>) == 0 && gz_address(dst) % alignof(Four<TO>) == 0;
    i64 fours = aligned ? count / 4 : 0;
    i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x, all = (i64)gridDim.x * blockDim.x;
    for (i64 i = first; i < fours; i += all) {
        Four<T> from = ((const Four<T>*)src)[i];
        Four<TO> to;
        for (u32 k = 0; k < 4; k++) put(real_of<REAL>(from.value[k]) * factor + shift, to.value[k]);
        ((Four<TO>*)dst)[i] = to;
    }
    for (i64 i = 4 * fours + first; i < count; i += all) {
        TO to;
        put(real_of<REAL>(gz_load<T>(src + i * (i64)sizeof(T))) * factor + shift, to);
        gz_store<TO>(dst + i * (i64)sizeof(TO), to);
    }
}

template <class T> GZ_DEVICE void convert_to(const u8* src, u8* dst, i64 count, i32 to, f64 scale, f64 offset) {
    if (to == 2) convert<T, Half>(src, dst, count, scale, offset);
    if (to == 4) convert<T, f32>(src, dst, count, scale, offset);
    if (to == 8) convert<T, f64>(src, dst, count, scale, offset);
}

GZ_KERNEL gz_convert(const u8* src, u8* dst, i64 count, i32 kind, i32 size, i32 to, f64 scale, f64 offset) {
    if (kind == 0 && size == 1) convert_to<Bool>(src, dst, count, to, scale, offset);
    if (kind == 1 && size == 1) convert_to<u8>(src, dst, count, to, scale, offset);
    if (kind == 1 && size == 2) convert_to<u16>(src, dst, count, to, scale, offset);
    if (kind == 1 && size == 4) convert_to<u32>(src, dst, count, to, scale, offset);
    if (kind == 1 && size == 8) convert_to<u64>(src, dst, count, to, scale, offset);
    if (kind == 2 && size == 1) convert_to<i8>(src, dst, count, to, scale, offset);
    if (kind == 2 && size == 2) convert_to<i16>(src, dst, count, to, scale, offset);
    if (kind == 2 && size == 4) convert_to<i32>(src, dst, count, to, scale, offset);
    if (kind == 2 && size == 8) convert_to<i64>(src, dst, count, to, scale, offset);
    if (kind == 3 && size == 2) convert_to<Half>(src, dst, count, to, scale, offset);
    if (kind == 3 && size == 4) convert_to<f32>(src, dst, count, to, scale, offset);
    if (kind == 3 && size == 8) convert_to<f64>(src, dst, count, to, scale, offset);
}
