// Multiply-adds in registers and reads of memory, written once and included for each instruction set. The
// including file defines LIMITS_SET (a namespace), LIMITS_TARGET, Vector's operations and LIMITS_SUMS, the
// chains of multiply-adds that hide their latency and still fit the registers.

namespace softmoe::bench::LIMITS_SET {

constexpr int kSums = LIMITS_SUMS;
constexpr int kLanes = sizeof(LIMITS_VECTOR) / sizeof(float);

LIMITS_TARGET inline void multiply_add(long count) {
  LIMITS_VECTOR sums[kSums];
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sums[i] = LIMITS_SET_ALL(static_cast<float>(i));
  const LIMITS_VECTOR a = LIMITS_SET_ALL(0.999f), b = LIMITS_SET_ALL(0.001f);
  for (long n = 0; n < count; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) {
      sums[i] = LIMITS_MULTIPLY_ADD(sums[i], a, b);
      asm volatile("" : LIMITS_REGISTER(sums[i]));
    }
  }
}

// Several streams at once: each is fetched ahead by itself. A stream is read in blocks of four cache lines.
LIMITS_TARGET inline float read_streams(const char* data, std::size_t bytes, std::size_t streams) {
  constexpr std::size_t kBlock = 256;
  LIMITS_VECTOR sum = LIMITS_SET_ALL(0.0f);
  const std::size_t each = bytes / streams;
  for (std::size_t i = 0; i + kBlock <= each; i += kBlock) {
    for (std::size_t s = 0; s < streams; ++s) {
      const char* block = data + s * each + i;
      for (std::size_t at = 0; at < kBlock; at += sizeof(LIMITS_VECTOR)) {
        sum = LIMITS_ADD(sum, LIMITS_LOAD(reinterpret_cast<const float*>(block + at)));
      }
    }
  }
  float lanes[kLanes];
  LIMITS_STORE(lanes, sum);
  return lanes[0];
}

}  // namespace softmoe::bench::LIMITS_SET

#undef LIMITS_SET
#undef LIMITS_TARGET
#undef LIMITS_VECTOR
#undef LIMITS_SET_ALL
#undef LIMITS_MULTIPLY_ADD
#undef LIMITS_ADD
#undef LIMITS_LOAD
#undef LIMITS_STORE
#undef LIMITS_REGISTER
#undef LIMITS_SUMS
