#!/usr/bin/env bash
# Fetches the dialogues of a computer game, as recordings and a manifest; bash launch/experiments/amazon_queen.sh --help tells how.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
package=flight-of-the-amazon-queen
edition=cc91960d133fcd4173eda4bac304e80d2bbdbaa085640287ab9e0507bd603f67 # SHA-256 of its data

usage() {
  cat <<'TEXT'
usage: bash launch/experiments/amazon_queen.sh FOLDER [PACKAGE.deb]

Writes FOLDER/clips/*.wav and FOLDER/manifest.jsonl: 2,265 lines of dialogue, spoken by 20 characters of the adventure game
"Flight of the Amazon Queen" (1995), and who speaks them. Each character's first conversation is for testing, the later ones are
for training, so that no conversation is on both sides. Called again, it does nothing.

The game comes from Debian's package flight-of-the-amazon-queen (35 MB), by apt-get download, which needs no rights but lists of
packages (apt-get update). PACKAGE.deb is that package, where it was fetched in another way, from packages.debian.org.

Licence: (C) John Passfield and Steven Stamatiadis. The game may be given away, also in parts of larger collections, with its
licence; it may not be sold as such, and modified versions must say so. The licence is put into FOLDER/copyright.
TEXT
}

fail() {
  printf 'amazon_queen.sh: %s\n' "$*" >&2
  exit 1
}

case ${1-} in
  -h | --help)
    usage
    exit 0
    ;;
  '' | -*)
    usage >&2
    exit 2
    ;;
esac
if (($# > 2)); then
  usage >&2
  exit 2
fi
folder=$1
if [[ -e $folder/manifest.jsonl ]]; then
  exit 0
fi
command -v dpkg-deb >/dev/null || fail 'dpkg-deb is missing, which unpacks Debian packages (apt-get install dpkg)'
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/unpacking.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
if (($# == 2)); then
  deb=$2
  [[ -f $deb ]] || fail "$deb: there is no such file"
else
  command -v apt-get >/dev/null || fail "apt-get is missing: fetch $package from packages.debian.org, and give the file as well"
  (cd "$scratch" && apt-get -qq download "$package") || fail "apt-get could not download $package: its reason is above; its lists \
of packages come with apt-get update"
  deb=$(printf '%s\n' "$scratch/$package"_*.deb)
fi
dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$scratch" --wildcards "*/$package/queen.1c" "*/$package/copyright" ||
  fail "$deb: is no package of $package, or another version of it"
data=$scratch/usr/share/scummvm/$package/queen.1c
licence=$scratch/usr/share/doc/$package/copyright
for file in "$data" "$licence"; do
  [[ -f $file && ! -L $file ]] || fail "$deb: holds no ${file#"$scratch"}"
done
printf '%s  %s\n' "$edition" "$data" | sha256sum --check --status ||
  fail "$deb: holds another edition of the game than configs/amazon_queen.py is made for (2004, English, speech as MP3)"
bash "$root/launch/install.sh" train
unset PYTHONHOME PYTHONPATH
cp "$licence" "$folder/copyright"
"$root/.venv/bin/python" -m elastic_ast_jax.experiments.amazon_queen "$data" "$folder" # which writes the manifest last
