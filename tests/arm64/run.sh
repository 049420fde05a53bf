#!/bin/bash
# The runner on arm64, emulated by qemu: opt-in, not part of .ci/run. Debian on x86, about five minutes of a core, nothing installed.
#
#     tests/arm64/run.sh [FOLDER]
#
# FOLDER keeps what was downloaded for the next run. PYTHON: one with the extras [export] and [dev].
set -euo pipefail

folder=$(realpath -m "${1:-${TMPDIR:-/tmp}/dreamcache-arm64}")
here=$(cd "$(dirname "$0")" && pwd)
figures=$here/../support/arm64_figures.py
python=${PYTHON:-python3}
mkdir -p "$folder/host/proc"
cd "$folder"

if [ ! -x qemu-aarch64-static ]; then
    apt-get download -qq -o APT::Sandbox::User= qemu-user-static
    dpkg-deb --fsys-tarfile qemu-user-static_*.deb | tar -xO ./usr/bin/qemu-aarch64-static > qemu-aarch64-static
    chmod +x qemu-aarch64-static
    rm qemu-user-static_*.deb
fi
rm -rf prefix prefix.work
"$here/../../docs/scripts/arm64_prefix.sh" "$folder/prefix"
[ -d fp32 ] || "$python" -m dreamcache.runtime.cli export --base mini --attention mha --out fp32

# An ARM kernel's words: without them ONNX Runtime does not start under qemu 7.2.
for core in 0 1; do
    printf 'processor\t: %d\nFeatures\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp\n' $core
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done > host/proc/cpuinfo

# A phone's environment is as good as empty. Never the bare -cpu max, which has what no processor has.
arm() {
    env -i QEMU_CPU="${CPU:-cortex-a76}" QEMU_LD_PREFIX="$folder/host" DREAMCACHE_EMULATOR="$folder/qemu-aarch64-static" \
        sh "$folder/prefix/dreamcache" "$@"
}
int8=$(echo "$folder"/prefix/site/dreamcache/runtime/mini)
arm verify "$int8" > verify.txt || { cat verify.txt; exit 1; }
arm "$figures" make "$folder/arm.npz" "$folder/fp32" "$int8"
"$python" "$figures" make "$folder/x86.npz" "$folder/fp32" "$int8"
"$python" "$figures" compare "$folder/x86.npz" "$folder/arm.npz"
arm generate "$int8" --reference "$here/../../docs/images/toy.png" --prompt "a toy robot on the beach" --steps 2 \
    --overwrite --out "$folder/picture.png" > /dev/null
echo "arm64: all checks of verify, equal noise, reference, tokens and samplers, latents within bounds"
