#!/bin/sh
# Install Unisono from the wheelhouse that this script lies in, into a new virtual environment. Nothing is fetched from
# anywhere, and nothing is installed whose digest is not the one that was written down when the wheelhouse was built.
set -eu

usage() {
    cat <<'END'
Install Unisono from this wheelhouse into a new virtual environment. No network is used.

  install.sh [--digest HEX] [--python PYTHON] FOLDER

  --digest HEX       what build.sh printed, as its builder told you: then it is this very wheelhouse
  --python PYTHON    the Python to use (default: python3)

Example:  sh wheelhouse/install.sh --digest 26d2... /opt/unisono-0.1.0
END
}

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

expected='' python=python3 folder=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --digest | --python)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help."
            case $1 in --digest) expected=$2 ;; --python) python=$2 ;; esac
            shift 2 ;;
        -*) fail "there is no option $1; see --help." ;;
        *) [ -z "$folder" ] || fail "one folder, please; see --help."; folder=$1; shift ;;
    esac
done
[ -n "$folder" ] || { usage >&2; exit 2; }
[ ! -e "$folder" ] || fail "$folder is there already. Name a new one, such as /opt/unisono-VERSION: the old one then is the way back."
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cd "$here"

[ -f SHA256SUMS ] || fail "there is no SHA256SUMS beside this script: it is no whole wheelhouse."
digest=$(sha256sum SHA256SUMS)
digest=${digest%% *}
if [ -n "$expected" ] && [ "$digest" != "$(printf '%s' "$expected" | tr 'A-F' 'a-f')" ]; then
    fail "this is not the wheelhouse that was announced: its digest is $digest. Nothing was installed."
fi
sha256sum --check --strict --quiet SHA256SUMS >&2 \
    || fail "a file is missing, or is not the one that was built. Nothing was installed. Fetch the wheelhouse again."
for wheel in *.whl; do
    grep -qF "  $wheel" SHA256SUMS || fail "$wheel was added later: it is not in SHA256SUMS. Nothing was installed."
done

trap 'rm -rf "$folder"' EXIT # a half-made environment is none
trap 'exit 130' INT TERM HUP
"$python" -m venv "$folder" || fail "no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv."
# --isolated: no setting of this machine's pip can name another source.
"$folder/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links . \
    --only-binary :all: --require-hashes --requirement requirements.txt || fail "nothing was installed."
"$folder/bin/python" -m pip --isolated --disable-pip-version-check check >/dev/null || fail "packages are missing. Nothing was installed."
"$folder/bin/unisono" --version
trap - EXIT
printf 'wheelhouse %s\ninstalled in %s\n' "$digest" "$folder"
