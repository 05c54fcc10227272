#!/usr/bin/env bash
# An aarch64 userland in a folder, to run a target server in under qemu-user: Python, NumPy, tvm_ffi
# and TVM's runtime library, and nothing else, as on a board.
#
# usage: aarch64.sh FOLDER PYTHON    (PYTHON: whose pip to use; its versions are installed)
set -euo pipefail
folder=$(realpath -m "$1") python=$2
work=$folder/work
rm -rf "$folder"
mkdir -p "$work"/{lists/partial,archives/partial,debs} "$folder"/{root,site/tvm/lib}
touch "$work/status"
cat > "$work/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$work";
Dir::State::lists "$work/lists";
Dir::State::status "$work/status";
Dir::Cache "$work";
APT::Sandbox::User "root";
Acquire::Languages "none";
CONF
export APT_CONFIG=$work/apt.conf
apt-get -qq update
(cd "$work/debs" && apt-get -qq download python3.11-minimal libpython3.11-minimal \
  libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libffi8)
for package in "$work"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done

version() { "$python" -c "from importlib.metadata import version; print(version('$1'))"; }
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
platforms=()
for tag in manylinux_2_{28,27,26,24,17}_aarch64 manylinux2014_aarch64; do
  platforms+=(--platform "$tag")
done
wheels=("${platforms[@]}" --python-version 3.11 --only-binary=:all: --no-deps)
pip install --no-compile --target "$folder/site" "${wheels[@]}" typing_extensions ml_dtypes \
  "numpy==$(version numpy)" "apache-tvm-ffi==$(version apache-tvm-ffi)" 2>/dev/null
pip download --dest "$work" "${wheels[@]}" "apache-tvm==$(version apache-tvm)" 2>/dev/null
"$python" - "$work"/apache_tvm-*.whl "$folder/site" <<'PYTHON'
import sys
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
for name in wheel.namelist():
    if name.startswith("tvm/lib/libtvm_runtime") and "cuda" not in name:
        wheel.extract(name, sys.argv[2])
PYTHON
touch "$folder/site/tvm/__init__.py"
rm -rf "$work" "$folder"/root/usr/share/{doc,man,locale}
cat > "$folder/python" <<RUN
#!/bin/sh
export PYTHONPATH=$folder/site:\$PYTHONPATH OPENBLAS_NUM_THREADS=1 TVM_NUM_THREADS=1
exec qemu-aarch64-static -L $folder/root $folder/root/usr/bin/python3.11 "\$@"
RUN
chmod +x "$folder/python"
touch "$folder/.installed"
