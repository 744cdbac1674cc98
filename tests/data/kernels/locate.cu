// Index arithmetic of the scatter kernel, which needs more than 2^32 words to be wide (tests/unit/test_kernels.py).
#include "scatter.cu"

// Where word index[i] of a box of three spans lies, by 64-bit and, where it fits, by 32-bit arithmetic.
GZ_KERNEL gz_locate(const i64* index, const i64* extent, const i64* stride, i64* dst, i32 narrow) {
    Box box = {};
    box.groups = 3, box.src = 5, box.dst = 7;
    for (i32 g = 0; g < 3; g++) {
        box.group[g] = Group{extent[g], stride[g], 2 * stride[g], -1, (u32)(0xFFFFFFFFull / (u64)extent[g])};
    }
    Places at = {};
    i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
    Word word = narrow ? locate<u32>(box, at, (u32)index[i]) : locate<u64>(box, at, (u64)index[i]);
    dst[3 * i] = word.src, dst[3 * i + 1] = word.dst, dst[3 * i + 2] = word.inner;
}
