#!/usr/bin/env bash
# Kernel tests under AddressSanitizer and UBSan: device sim compiles the same kernels with both.
#
#   bash tests/sanitize.sh                 the kernel and device tests
#   bash tests/sanitize.sh tests/property  any other pytest arguments instead
#   bash tests/sanitize.sh fuzz 10000      so many chunks that lie (tests/fuzz_kernels.py)
set -euo pipefail
cd "$(dirname "$0")/.."

compiler=${CXX:-g++}
library=$("$compiler" -print-file-name=libasan.so 2>/dev/null || true)
if [[ $library != */* ]]; then
    echo "no libasan beside $compiler: install the sanitizers of your compiler (Debian: libasan8, with g++)" >&2
    exit 1
fi
# libstdc++ comes first too, or AddressSanitizer finds no exceptions to intercept in extension modules that throw.
stdlib=$("$compiler" -print-file-name=libstdc++.so.6)

export GPUZARR_SIM_SANITIZE=1
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONDONTWRITEBYTECODE=1
if [[ ${1:-} == fuzz ]]; then
    LD_PRELOAD="$library:$stdlib" exec "${PYTHON:-python3}" -m tests.fuzz_kernels --count "${2:-10000}"
fi
[[ $# -gt 0 ]] || set -- -n "${WORKERS:-auto}" tests/unit/test_kernels*.py tests/unit/test_device_zstd.py \
    tests/unit/test_waves.py tests/contract/test_device.py
LD_PRELOAD="$library:$stdlib" exec "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider --capture=sys "$@"
