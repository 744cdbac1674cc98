// What every kernel includes, and nothing else: integer types, the kernel macro, unaligned loads and stores.
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

// The bytes of a word in reverse.
GZ_DEVICE u8 gz_reversed(u8 v) { return v; }
GZ_DEVICE u16 gz_reversed(u16 v) { return (u16)((v << 8) | (v >> 8)); }
GZ_DEVICE u32 gz_reversed(u32 v) { return __byte_perm(v, 0, 0x0123); }
GZ_DEVICE u64 gz_reversed(u64 v) { return ((u64)gz_reversed((u32)v) << 32) | gz_reversed((u32)(v >> 32)); }
GZ_DEVICE u128 gz_reversed(u128 v) { return u128{gz_reversed(v.hi), gz_reversed(v.lo)}; }
