#!/bin/bash
# A folder with Debian's arm64 Python, its C library and DreamCache, which needs nothing of the device but a kernel.
#
#     docs/scripts/arm64_prefix.sh FOLDER
#     adb push FOLDER /data/local/tmp/dreamcache
#     adb shell sh /data/local/tmp/dreamcache/dreamcache verify mini
#
# Runs on Debian, on any processor, without root: apt keeps its own state in FOLDER.work. Tested by tests/arm64/run.sh in
# an empty environment; Android's kernel and SELinux were not at hand.
set -euo pipefail

folder=$(realpath -m "${1:?usage: arm64_prefix.sh FOLDER}")
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$folder.work
[ ! -e "$folder" ] || { echo "arm64_prefix.sh: $folder exists; remove it or give another folder" >&2; exit 1; }
mkdir -p "$work"/{state,lists/partial,cache/archives/partial,wheels}
: > "$work/status"

apt=(-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Install-Recommends=false
     -o APT::Sandbox::User= -o Debug::NoLocking=true
     -o Dir::State="$work/state" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status"
     -o Dir::Cache="$work/cache")
apt-get "${apt[@]}" -qq update
apt-get "${apt[@]}" -qq -y --download-only install python3 libstdc++6 > /dev/null
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/folder"
done

python=$(basename "$(ls "$work"/folder/usr/bin/python3.[0-9]* | head -1)")
python3 -m pip wheel -q --no-deps --wheel-dir "$work/wheels" "$root"
python3 -m pip install -q --no-warn-conflicts --target "$work/folder/site" --only-binary=:all: --python-version "${python#python}" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    "$work"/wheels/dreamcache-*.whl

cat > "$work/folder/dreamcache" << END
#!/bin/sh
# Starts the folder's own loader, since a phone has none at the place that programs name. Anything but a file ending in
# .py is a command of dreamcache.
here=\$(cd "\$(dirname "\$0")" && pwd)
export HOME=\${HOME:-\$here} TMPDIR=\${TMPDIR:-\$here/tmp} PYTHONPATH=\$here/site PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
mkdir -p "\$TMPDIR"
case "\${1:-}" in *.py) ;; *) set -- -m dreamcache.runtime.cli "\$@" ;; esac
exec \${DREAMCACHE_EMULATOR:-} "\$here/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1" \\
    --library-path "\$here/lib/aarch64-linux-gnu:\$here/usr/lib/aarch64-linux-gnu" "\$here/usr/bin/$python" "\$@"
END
chmod +x "$work/folder/dreamcache"
# Documents and translations are a third of it.
rm -rf "$work"/folder/usr/share/{doc,man,locale,info} "$work"/folder/{var,etc}
mv "$work/folder" "$folder"
rm -rf "$work"
du -sh "$folder"
