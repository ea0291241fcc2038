#include "cpu/isa_detect.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace softmoe::cpu {

#define SOFTMOE_DECLARE_MAKE(isa) \
  std::unique_ptr<Kernels> make_kernels_##isa(ThreadPool& pool, Scratch& scratch);
SOFTMOE_DECLARE_MAKE(sse4)
SOFTMOE_DECLARE_MAKE(avx2)
SOFTMOE_DECLARE_MAKE(avx512)
SOFTMOE_DECLARE_MAKE(avx512bf16)
SOFTMOE_DECLARE_MAKE(amx)
SOFTMOE_DECLARE_MAKE(neon)
#undef SOFTMOE_DECLARE_MAKE

namespace {

// What the processor has and the system saves on a context switch.
struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

#if defined(__x86_64__)
constexpr bool has_bits(std::uint64_t value, std::uint64_t bits) { return (value & bits) == bits; }
constexpr std::uint32_t bit(int index) { return std::uint32_t{1} << index; }

std::uint64_t saved_registers() {
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

// Linux grants the tile registers to a process that asks; other systems are not asked.
bool tiles_are_permitted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features features;
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr std::uint32_t kFma = bit(12), kOsSaves = bit(27), kF16c = bit(29);
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !has_bits(ecx, kFma | kOsSaves | kF16c)) return features;
  const std::uint64_t saved = saved_registers();
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
  const std::uint32_t leaf7_ebx = ebx, leaf7_ecx = ecx, leaf7_edx = edx;
  constexpr std::uint32_t kBmi1 = bit(3), kAvx2 = bit(5), kBmi2 = bit(8);
  constexpr std::uint32_t kAvx512 = bit(16) | bit(17) | bit(28) | bit(30) | bit(31);  // F, DQ, CD, BW, VL
  constexpr std::uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  features.avx2 = has_bits(leaf7_ebx, kBmi1 | kAvx2 | kBmi2) && has_bits(saved, kYmm);
  features.avx512 = features.avx2 && has_bits(leaf7_ebx, kAvx512) && has_bits(saved, kZmm);
  if (!features.avx512 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return features;
  constexpr std::uint32_t kVnni = bit(11);  // every processor with bfloat16 products has it
  features.avx512bf16 = has_bits(eax, bit(5)) && has_bits(leaf7_ecx, kVnni);
  constexpr std::uint32_t kAmxBf16 = bit(22), kAmxTile = bit(24), kAmxInt8 = bit(25);
  features.amx = features.avx512bf16 && has_bits(leaf7_edx, kAmxBf16 | kAmxTile | kAmxInt8) &&
                 has_bits(saved, kTiles) && tiles_are_permitted();
  return features;
}
#else
Features detect() { return {}; }
#endif

std::vector<std::string> detect_available() {
  [[maybe_unused]] const Features features = detect();
  std::vector<std::string> names;
#if defined(SOFTMOE_HAVE_ISA_NEON)
  names.push_back("neon");
#endif
#if defined(SOFTMOE_HAVE_ISA_SSE4)
  names.push_back("sse4");
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX2)
  if (features.avx2) names.push_back("avx2");
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX512)
  if (features.avx512) names.push_back("avx512");
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX512BF16)
  if (features.avx512bf16) names.push_back("avx512bf16");
#endif
#if defined(SOFTMOE_HAVE_ISA_AMX)
  if (features.amx) names.push_back("amx");
#endif
  return names;
}

}  // namespace

const std::vector<std::string>& available_instruction_sets() {
  static const std::vector<std::string> names = detect_available();
  return names;
}

std::string chosen_instruction_set() {
  const std::vector<std::string>& names = available_instruction_sets();
  const char* wanted = std::getenv("SOFTMOE_CPU_ISA");
  if (!wanted || !*wanted) return names.back();
  if (std::find(names.begin(), names.end(), wanted) == names.end()) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    throw Error("ERR_INVALID_ARGUMENT", std::string("SOFTMOE_CPU_ISA is \"") + wanted +
                                            "\", which this machine or build lacks: give one of " + list);
  }
  return wanted;
}

std::unique_ptr<Kernels> make_kernels([[maybe_unused]] const std::string& name,
                                      [[maybe_unused]] ThreadPool& pool, [[maybe_unused]] Scratch& scratch) {
#if defined(SOFTMOE_HAVE_ISA_NEON)
  if (name == "neon") return make_kernels_neon(pool, scratch);
#endif
#if defined(SOFTMOE_HAVE_ISA_SSE4)
  if (name == "sse4") return make_kernels_sse4(pool, scratch);
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX2)
  if (name == "avx2") return make_kernels_avx2(pool, scratch);
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX512)
  if (name == "avx512") return make_kernels_avx512(pool, scratch);
#endif
#if defined(SOFTMOE_HAVE_ISA_AVX512BF16)
  if (name == "avx512bf16") return make_kernels_avx512bf16(pool, scratch);
#endif
#if defined(SOFTMOE_HAVE_ISA_AMX)
  if (name == "amx") return make_kernels_amx(pool, scratch);
#endif
  throw Error("ERR_INTERNAL", "no CPU kernels are built for the instruction set \"" + name + "\"");
}

}  // namespace softmoe::cpu
