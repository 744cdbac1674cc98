#!/usr/bin/env bash
# Kernel and host core under AddressSanitizer and UBSan: device sim compiles the same kernels with both, and the core
# is built another time.
#
#   bash tests/sanitize.sh                 the tests of kernels, devices and the host core
#   bash tests/sanitize.sh tests/property  any other pytest arguments instead
#   bash tests/sanitize.sh fuzz 10000      so many chunks that lie, for the kernels (tests/fuzz_kernels.py), and arrays,
#                                          for the core (tests/fuzz.py)
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

core=$(mktemp --directory)
trap 'rm -rf "$core"' EXIT
"${PYTHON:-python3}" -m gpuzarr.native.build "$core/core.so" -g -fno-omit-frame-pointer -fsanitize=address,undefined \
    -fno-sanitize-recover=undefined

export GPUZARR_SIM_SANITIZE=1 GPUZARR_NATIVE_LIBRARY=$core/core.so
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1
export PYTHONDONTWRITEBYTECODE=1
if [[ ${1:-} == fuzz ]]; then
    LD_PRELOAD="$library:$stdlib" "${PYTHON:-python3}" -m tests.fuzz_kernels --count "${2:-10000}"
    LD_PRELOAD="$library:$stdlib" "${PYTHON:-python3}" -m tests.fuzz --device cpu --case 1 --count "${2:-10000}"
    exit
fi
[[ $# -gt 0 ]] || set -- -n "${WORKERS:-auto}" tests/unit/test_kernels*.py tests/unit/test_device_zstd.py tests/unit/test_core.py \
    tests/unit/test_waves.py tests/contract/test_device.py
LD_PRELOAD="$library:$stdlib" "${PYTHON:-python3}" -m pytest -q -p no:cacheprovider --capture=sys "$@"
