// Running sums, as numcodecs `delta` decodes (codecs/delta.py).
//
//   before   src + offset[i]:   d0 d1 d2 ...            items values of stored_size bytes
//   after    dst + i*items*size: d0  d0+d1  d0+d1+d2 ... items values of size bytes
//
// Block i serves chunk i.
//
// gz_delta: integers, extended by sign if `is_signed`, summed modulo 2^64 and cut to size bytes. A multiple
// of 32 threads, at most 1024. The block takes a value a thread at a time: each warp sums by shuffles, the
// warps' totals are summed by the first warp, and the total so far is carried along.
//
// gz_delta_float: f32 or f64, strictly in sequence by one thread, because the order of float sums shows. NaNs
// as on x86, where the first to come stays, made quiet, and inf - inf is the negative quiet NaN.
#include "gz.cuh"

GZ_DEVICE u64 integer_at(const u8* p, i32 size, i32 is_signed) {
    if (size == 1) return is_signed ? (u64)(i64)(i8)*p : *p;
    if (size == 2) return is_signed ? (u64)(i64)(i16)gz_load<u16>(p) : gz_load<u16>(p);
    if (size == 4) return is_signed ? (u64)(i64)(i32)gz_load<u32>(p) : gz_load<u32>(p);
    return gz_load<u64>(p);
}

GZ_DEVICE void put_integer(u8* p, i32 size, u64 value) {
    if (size == 1) *p = (u8)value;
    if (size == 2) gz_store<u16>(p, (u16)value);
    if (size == 4) gz_store<u32>(p, (u32)value);
    if (size == 8) gz_store<u64>(p, value);
}

// The sum of this lane's value and those of the lanes before it.
GZ_DEVICE u64 warp_sum(u64 value) {
    for (u32 step = 1; step < 32; step *= 2) {
        u64 before = __shfl_up_sync(0xffffffffu, value, step);
        if ((threadIdx.x & 31) >= step) value += before;
    }
    return value;
}

GZ_KERNEL gz_delta(const u8* src, const i64* offset, u8* dst, i64 items, i32 stored_size, i32 is_signed,
                   i32 size) {
    __shared__ u64 warp_total[32];
    src += offset[blockIdx.x];
    dst += (i64)blockIdx.x * items * size;
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    u64 carried = 0;
    for (i64 base = 0; base < items; base += blockDim.x) {
        i64 k = base + threadIdx.x;
        u64 sum = warp_sum(k < items ? integer_at(src + k * stored_size, stored_size, is_signed) : 0);
        if (lane == 31) warp_total[warp] = sum;
        __syncthreads();
        if (warp == 0) {
            u64 total = warp_sum(lane < warps ? warp_total[lane] : 0);
            if (lane < warps) warp_total[lane] = total;
        }
        __syncthreads();
        if (warp) sum += warp_total[warp - 1];
        if (k < items) put_integer(dst + k * size, size, carried + sum);
        carried += warp_total[warps - 1];
        __syncthreads();  // the totals are read before the next round overwrites them
    }
}

template <class T, class BITS>
GZ_DEVICE void sum_floats(const u8* src, u8* dst, i64 items, BITS quiet, BITS invalid) {
    T sum = 0;
    BITS sum_bits = 0;
    for (i64 k = 0; k < items; k++) {
        const u8* p = src + k * (i64)sizeof(T);
        T value = gz_load<T>(p), before = sum;
        sum = k ? before + value : value;
        if (k && before != before)
            sum_bits |= quiet;
        else if (k == 0 || value != value)
            sum_bits = gz_load<BITS>(p) | (k ? quiet : 0);  // the first is copied as it is
        else
            sum_bits = sum != sum ? invalid : *(const BITS*)&sum;
        gz_store<BITS>(dst + k * (i64)sizeof(T), sum_bits);
    }
}

GZ_KERNEL gz_delta_float(const u8* src, const i64* offset, u8* dst, i64 items, i32 size) {
    if (threadIdx.x) return;
    src += offset[blockIdx.x];
    dst += (i64)blockIdx.x * items * size;
    if (size == 4) sum_floats<f32, u32>(src, dst, items, 0x00400000u, 0xFFC00000u);
    if (size == 8) sum_floats<f64, u64>(src, dst, items, 0x0008000000000000ull, 0xFFF8000000000000ull);
}
