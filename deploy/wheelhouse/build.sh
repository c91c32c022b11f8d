#!/bin/sh
# Build a wheelhouse: one folder with Unisono and all it needs, for machines without the Internet.
# Run on a machine that has it, from a checkout. The folder is complete: install.sh travels in it.
set -eu

usage() {
    cat <<'END'
Build a wheelhouse: Unisono and everything it needs, at the versions of constraints.txt, in one folder.

  build.sh [--extras LIST] [--python PYTHON] [--machine ARCH --python-version X.Y] FOLDER

  --extras LIST          what to include beside the core (default: network,report; to try it out: demo,network)
  --python PYTHON        the Python that builds (default: python3). The wheels are for its version and this machine
  --machine ARCH         for another Linux machine instead: x86_64 or aarch64. Needs --python-version
  --python-version X.Y   ... and its Python

Example:  sh deploy/wheelhouse/build.sh --extras demo,network wheelhouse
END
}

fail() {
    printf 'build.sh: %s\n' "$1" >&2
    exit 1
}

extras=network,report python=python3 machine='' version='' folder=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --extras | --python | --machine | --python-version)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help."
            case $1 in
                --extras) extras=$2 ;;
                --python) python=$2 ;;
                --machine) machine=$2 ;;
                --python-version) version=$2 ;;
            esac
            shift 2 ;;
        -*) fail "there is no option $1; see --help." ;;
        *) [ -z "$folder" ] || fail "one folder, please; see --help."; folder=$1; shift ;;
    esac
done
[ -n "$folder" ] || { usage >&2; exit 2; }
case $machine in '' | x86_64 | aarch64) ;; *) fail "--machine is x86_64 or aarch64." ;; esac
[ -z "$machine" ] || [ -n "$version" ] || fail "--machine needs --python-version, for example 3.11."
[ -z "$version" ] || [ -n "$machine" ] || fail "--python-version goes with --machine; for this machine say --python."
if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then
    fail "$folder is not empty: a wheelhouse with two versions in it is none. Name a new folder."
fi

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
mkdir -p "$folder"
folder=$(CDPATH='' cd -- "$folder" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Unisono's own wheel, from a copy: what an earlier build left in the checkout cannot get into it. The fixed date makes the
# same sources give the same bytes, whoever builds.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1700000000}"
mkdir "$work/source"
cp -R "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$root/src" "$work/source/"
find "$work/source" \( -name '*.egg-info' -o -name '__pycache__' \) -prune -exec rm -rf {} +
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$work/source"
set -- "$work"/unisono-*.whl
own=$1
[ -f "$own" ] || fail "Unisono's own wheel was not built."

if [ -z "$machine" ]; then
    "$python" -m pip wheel --quiet --constraint "$root/constraints.txt" --wheel-dir "$folder" "${own}[$extras]"
else
    set --
    for libc in 2_28 2_27 2_26 2_24 2_17 2_12 2_5; do # pip takes these names as they are, and knows no order among them
        set -- "$@" --platform "manylinux_${libc}_$machine"
    done
    set -- "$@" --platform "manylinux2014_$machine" --platform "linux_$machine"
    "$python" -m pip download --quiet --only-binary :all: --implementation cp --python-version "$version" "$@" \
        --constraint "$root/constraints.txt" --dest "$folder" "${own}[$extras]"
fi

# What is installed, exactly: name, version, digest. And the digests of all files, for sha256sum.
cp "$here/install.sh" "$folder/"
cd "$folder"
for wheel in *.whl; do
    rest=${wheel#*-}
    digest=$(sha256sum "$wheel")
    printf '%s==%s --hash=sha256:%s\n' "${wheel%%-*}" "${rest%%-*}" "${digest%% *}"
done > requirements.txt
sha256sum -- *.whl install.sh requirements.txt > SHA256SUMS
digest=$(sha256sum SHA256SUMS)
set -- *.whl
printf '%s wheels in %s\n' "$#" "$folder"
printf 'Tell this to whoever installs it, by another way than the folder takes:\n  %s\n' "${digest%% *}"
