// What every kernel includes, and nothing else: integer types, the kernel macro, loads and stores at any address,
// copies by a warp, and what several kernels do with words: reverse, divide, transpose.
//
// The same sources are compiled by NVRTC and nvcc for a GPU and by a C++ compiler for the simulated device
// (host/shim.h). No system header is included: NVRTC has none.
//
// Rules for kernels
//   name      gz_<operation>, one operation a file; parameters are scalars of the types below or pointers
//   functions GZ_DEVICE; templates are welcome
//   shared    __shared__ only inside a kernel, without initialiser; pass pointers on
//   barriers  every thread of a block reaches every __syncthreads: no early return before one
//   waiting   never spin on what another thread or block will write
//   floats    compiled without contraction (--fmad=false, -ffp-contract=off), denormals are kept
//   input     is hostile: whatever comes from stored bytes is checked before it becomes an address
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef long long i64;
typedef float f32;
typedef double f64;

#ifndef __CUDACC__
#include "host/shim.h"
#endif

#define GZ_KERNEL extern "C" __global__ void
#define GZ_DEVICE static __device__ __forceinline__

struct alignas(16) u128 {
    u64 lo, hi;
};

// The address of a pointer, for alignment checks.
GZ_DEVICE u64 gz_address(const void* p) { return (u64)p; }

// A value at any address. Little-endian, as every GPU is.
template <class T> GZ_DEVICE T gz_load(const u8* p) {
    if ((gz_address(p) & (sizeof(T) - 1)) == 0) return *(const T*)p;
    T value;
    for (u32 i = 0; i < sizeof(T); i++) ((u8*)&value)[i] = p[i];
    return value;
}

template <class T> GZ_DEVICE void gz_store(u8* p, T value) {
    if ((gz_address(p) & (sizeof(T) - 1)) == 0) {
        *(T*)p = value;
        return;
    }
    for (u32 i = 0; i < sizeof(T); i++) p[i] = ((const u8*)&value)[i];
}

// 16 bytes at p, of which `skew` say how far p is from a word. Unaligned, all five words are read.
GZ_DEVICE u128 gz_sixteen(const u8* p, u32 skew, bool aligned) {
    if (aligned) return *(const u128*)p;
    const u32* word = (const u32*)(p - skew);
    u32 w[4];
    for (u32 k = 0; k < 4; k++) w[k] = __funnelshift_r(word[k], word[k + 1], 8 * skew);
    return u128{(u64)w[1] << 32 | w[0], (u64)w[3] << 32 | w[2]};
}

// n bytes that do not overlap, copied by one warp: 16 bytes a lane, four times before it waits for the first.
GZ_DEVICE void gz_copy(u8* dst, const u8* src, u32 n, u32 lane) {
    u32 head = min((u32)-gz_address(dst) & 15, n);
    if (lane < head) dst[lane] = src[lane];
    dst += head, src += head, n -= head;
    u32 skew = (u32)gz_address(src) & 3, wide = n < 20 ? 0 : (n - 4) / 16;  // the fifth word is inside too
    bool aligned = ((u32)gz_address(src) & 15) == 0;
    u32 i = lane;
    for (; i + 96 < wide; i += 128) {
        u128 part[4];
        for (u32 k = 0; k < 4; k++) part[k] = gz_sixteen(src + 16 * (i + 32 * k), skew, aligned);
        for (u32 k = 0; k < 4; k++) *(u128*)(dst + 16 * (i + 32 * k)) = part[k];
    }
    for (; i < wide; i += 32) *(u128*)(dst + 16 * i) = gz_sixteen(src + 16 * i, skew, aligned);
    for (i = 16 * wide + lane; i < n; i += 32) dst[i] = src[i];
}

// dst[i] = dst[i - distance] for n bytes in turn, by one warp that wrote what lies before: a pattern, where
// n > distance. Lanes only read what was there before, so that all of them write at once.
GZ_DEVICE void gz_repeat(u8* dst, u32 distance, u32 n, u32 lane) {
    __syncwarp();
    const u8* from = dst - distance;
    if (n <= 32) {
        u32 at = distance < n && lane >= distance ? lane % distance : lane;
        if (lane < n) dst[lane] = from[at];
        return;
    }
    if (distance <= 16 && (distance & (distance - 1)) == 0) {  // then aligned 16 bytes are the same everywhere
        u32 head = (u32)-gz_address(dst) & 15, word[4] = {0, 0, 0, 0};
        for (u32 k = 0; k < 16; k++) word[k / 4] |= (u32)from[(head + k) & (distance - 1)] << k % 4 * 8;
        u128 pattern = {(u64)word[1] << 32 | word[0], (u64)word[3] << 32 | word[2]};
        u32 tail = head + (n - head) / 16 * 16;
        if (lane < head) dst[lane] = from[lane & (distance - 1)];
        for (u32 i = head + 16 * lane; i < tail; i += 512) *(u128*)(dst + i) = pattern;
        if (tail + lane < n) dst[tail + lane] = from[(tail + lane) & (distance - 1)];
        return;
    }
    u32 done = 0;
    if (distance < 64) {
        u32 at = lane % distance, step = 32 % distance;
        for (done = lane; done < min(n, 64u); done += 32) {
            dst[done] = from[at];
            at = at + step < distance ? at + step : at + step - distance;
        }
        done = min(n, 64u);
    }
    while (done < n) {  // from a multiple of the distance, which grows with what is done
        __syncwarp();
        u32 back = (done + distance) / distance * distance, count = min(back, n - done);
        gz_copy(dst + done, dst + done - back, count, lane);
        done += count;
    }
}

// The rest of a length in LZ4's form: bytes that are added up as far as the first one that is not 255. False
// where that is not among the bytes before `end`, or the sum exceeds `most`. By one warp, 32 bytes at a time.
GZ_DEVICE bool gz_lengthen(const u8* src, u32 end, u32& in, u32& length, u32 most, u32 lane) {
    for (;;) {
        bool last = in + lane >= end || src[in + lane] != 255;
        u32 lasts = __ballot_sync(0xffffffffu, last), full = lasts ? (u32)__ffs((i32)lasts) - 1 : 32;
        in += full, length += 255 * full;
        if (in >= end || length > most) return false;
        if (lasts) return (length += src[in++]) <= most;
    }
}

// The bytes of a word in reverse.
GZ_DEVICE u8 gz_reversed(u8 v) { return v; }
GZ_DEVICE u16 gz_reversed(u16 v) { return (u16)((v << 8) | (v >> 8)); }
GZ_DEVICE u32 gz_reversed(u32 v) { return __byte_perm(v, 0, 0x0123); }
GZ_DEVICE u64 gz_reversed(u64 v) { return ((u64)gz_reversed((u32)v) << 32) | gz_reversed((u32)(v >> 32)); }
GZ_DEVICE u128 gz_reversed(u128 v) { return u128{gz_reversed(v.hi), gz_reversed(v.lo)}; }

// The bytes of each unit in reverse: units of 0 (none), 2, 4, 8 or 16 bytes, no larger than the value.
GZ_DEVICE u8 gz_swapped(u8 v, u32) { return v; }
GZ_DEVICE u16 gz_swapped(u16 v, u32 unit) { return unit == 2 ? gz_reversed(v) : v; }
GZ_DEVICE u32 gz_swapped(u32 v, u32 unit) {
    return unit == 4 ? gz_reversed(v) : unit == 2 ? __byte_perm(v, 0, 0x2301) : v;
}
GZ_DEVICE u64 gz_swapped(u64 v, u32 unit) {
    if (unit == 8) return gz_reversed(v);
    return (u64)gz_swapped((u32)(v >> 32), unit) << 32 | gz_swapped((u32)v, unit);
}
GZ_DEVICE u128 gz_swapped(u128 v, u32 unit) {
    if (unit == 16) return gz_reversed(v);
    return u128{gz_swapped(v.lo, unit), gz_swapped(v.hi, unit)};
}

// Division of 32 bits by multiplication. inverse: gz_inverted(divisor), which is not zero.
GZ_DEVICE u32 gz_inverted(u32 divisor) { return 0xFFFFFFFFu / divisor; }

GZ_DEVICE u32 gz_divided(u32 value, u32 divisor, u32 inverse) {
    u32 quotient = __umulhi(value, inverse);  // one too small at most
    return value - quotient * divisor >= divisor ? quotient + 1 : quotient;
}

// 4 × 4 bytes: byte k of in[j] becomes byte j of the k-th word.
GZ_DEVICE void gz_transpose_bytes(const u32* in, u32& a, u32& b, u32& c, u32& d) {
    u32 low01 = __byte_perm(in[0], in[1], 0x5140), low23 = __byte_perm(in[2], in[3], 0x5140);
    u32 high01 = __byte_perm(in[0], in[1], 0x7362), high23 = __byte_perm(in[2], in[3], 0x7362);
    a = __byte_perm(low01, low23, 0x5410), b = __byte_perm(low01, low23, 0x7632);
    c = __byte_perm(high01, high23, 0x5410), d = __byte_perm(high01, high23, 0x7632);
}

// Exchange bits of a and b: those of b in `mask` with those of a that are `by` higher.
GZ_DEVICE void gz_exchange(u32& a, u32& b, u32 by, u32 mask) {
    u32 changed = (a >> by ^ b) & mask;
    b ^= changed, a ^= changed << by;
}

// Four times 8 × 8 bits: bit k of byte c of row[j] becomes bit j of byte c of row[k].
GZ_DEVICE void gz_transpose_bits(u32* row) {
    for (u32 k = 0; k < 8; k += 2) gz_exchange(row[k], row[k + 1], 1, 0x55555555);
    for (u32 k = 0; k < 8; k += k & 1 ? 3 : 1) gz_exchange(row[k], row[k + 2], 2, 0x33333333);
    for (u32 k = 0; k < 4; k++) gz_exchange(row[k], row[k + 4], 4, 0x0F0F0F0F);
}
