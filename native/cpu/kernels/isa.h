// Begins code for the instruction set SOFTMOE_ISA. Include it after all headers of the standard library and
// of core/, and isa_end.h at the end of the file: what the standard headers define must stay code for every
// processor, since the linker keeps one copy of it. Inside, call no function template of the standard library
// that could be emitted out of line for a type that other files use too. GCC defines __AVX2__ and its like
// inside the region, Clang does not: test SOFTMOE_ISA_AVX2 and its like.

#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(SOFTMOE_ISA_AVX2)
#define SOFTMOE_TARGET "avx2,fma,f16c,bmi,bmi2"
#elif defined(SOFTMOE_ISA_AVX512)
#define SOFTMOE_TARGET "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512cd"
#elif defined(SOFTMOE_ISA_AVX512BF16)
#define SOFTMOE_TARGET \
  "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,avx512vnni"
#elif defined(SOFTMOE_ISA_AMX)
#define SOFTMOE_TARGET                                                                                 \
  "avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,avx512vnni,amx-tile," \
  "amx-bf16,amx-int8"
#elif !defined(SOFTMOE_ISA_SSE4) && !defined(SOFTMOE_ISA_NEON)
#error "define SOFTMOE_ISA and SOFTMOE_ISA_<SET>"
#endif
#if defined(SOFTMOE_TARGET)
#define SOFTMOE_PRAGMA(text) _Pragma(#text)
#define SOFTMOE_EXPANDED_PRAGMA(text) SOFTMOE_PRAGMA(text)
#if defined(__clang__)
SOFTMOE_EXPANDED_PRAGMA(clang attribute push(__attribute__((target(SOFTMOE_TARGET))), apply_to = function))
#else
#pragma GCC push_options
SOFTMOE_EXPANDED_PRAGMA(GCC target(SOFTMOE_TARGET))
#endif
#endif
