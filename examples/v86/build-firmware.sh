#!/bin/sh
# Assembles firmware.S into its 64 KiB image and writes it, compressed, into firmware-image.ts.
# The result is committed: only who changes firmware.S needs this, with as, ld and gzip.
# With an argument: writes the plain image there instead (a test compares it with ours).
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
as --32 -o "$scratch/firmware.o" firmware.S
ld -m elf_i386 -Ttext 0xF0000 --entry 0xF0000 --oformat binary \
  -o "$scratch/firmware.bin" "$scratch/firmware.o"
if [ $# -gt 0 ]; then
  cp "$scratch/firmware.bin" "$1"
  exit 0
fi
{
  echo "// Written by build-firmware.sh from firmware.S: the 64 KiB image, gzip, base64."
  echo "// A test compares the two."
  echo "export const FIRMWARE_GZIP_BASE64 = ["
  gzip -9 -n <"$scratch/firmware.bin" | base64 -w 92 | sed "s/.*/  '&',/"
  echo "].join('')"
} >firmware-image.ts
