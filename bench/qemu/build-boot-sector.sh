#!/bin/sh
# Assembles boot-sector.S into its 512 bytes and writes them into boot-sector-image.ts.
# The result is committed: only who changes boot-sector.S needs this, with as and ld.
# With an argument: writes the plain image there instead (a test compares it with ours).
set -eu
cd "$(dirname "$0")"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
as --32 -o "$scratch/boot-sector.o" boot-sector.S
ld -m elf_i386 -Ttext 0x7C00 --oformat binary \
  -o "$scratch/boot-sector.bin" "$scratch/boot-sector.o"
if [ $# -gt 0 ]; then
  cp "$scratch/boot-sector.bin" "$1"
  exit 0
fi
{
  echo "// Written by build-boot-sector.sh from boot-sector.S: the 512 bytes, base64."
  echo "// A test compares the two."
  echo "export const BOOT_SECTOR_BASE64 = ["
  base64 -w 92 <"$scratch/boot-sector.bin" | sed "s/.*/  '&',/"
  echo "].join('')"
} >boot-sector-image.ts
