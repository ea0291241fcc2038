#!/bin/sh
# Usage: check-isa-objects.sh <build folder>
# The linker keeps one copy of a function that several objects define (an inline function, a template of the standard
# library). If the copy came from an object for a newer instruction set, an older processor would fault in it. So no
# such function outside the set's own namespace may hold an instruction of the AVX family.
set -eu
build=$1
status=0
checked=0
for isa in avx2 avx512 avx512bf16 amx; do
  for object in "$build"/CMakeFiles/softmoe_kernels_$isa.dir/native/cpu/kernels/*.o; do
    [ -e "$object" ] || continue
    checked=$((checked + 1))
    # Shared functions live in sections of their own, .text.<mangled name>; the set's own carry its namespace.
    sections=$(objdump -h -w "$object" | awk '$2 ~ /^\.text.*\._Z/ {print $2}' | grep -v "${#isa}${isa}" || true)
    for section in $sections; do
      if objdump -d --no-show-raw-insn -j "$section" "$object" | awk '$2 ~ /^v/ {found = 1} END {exit !found}'; then
        echo "$object: $section holds AVX code that older processors may be given"
        status=1
      fi
    done
  done
done
[ "$checked" -gt 0 ] || { echo "no kernel objects under $build"; exit 1; }
echo "$checked objects checked"
exit $status
