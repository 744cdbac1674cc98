// Turns what a decompression library reports into faults (device/nvcomp.py).
//
//   written[i], statuses[i]   bytes that stream i gave, and its status, as the library set them
//   fault[i]                  1 unless the status is 0 and the bytes are `expected`; else left alone
//
// One thread a stream, any number of blocks.
#include "gz.cuh"

GZ_KERNEL gz_verdict(const u64* written, const i32* statuses, i64 expected, i64 count, i32* fault) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count && (statuses[i] != 0 || written[i] != (u64)expected)) fault[i] = 1;
}
