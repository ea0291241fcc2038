#include "definedness.h"

#include "block.h"

namespace ptxemu {
namespace {

__m256i load(const uint8_t* bytes) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes)); }
void store(uint8_t* bytes, __m256i value) { _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), value); }

// 0xff in each byte whose lane is in the mask.
__m256i spread(Mask mask) {
  const __m256i copies =
      _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask)),
                          _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
  const __m256i bits = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
  return _mm256_cmpeq_epi8(_mm256_and_si256(copies, bits), bits);
}

void write(Warp& warp, uint32_t row, __m256i value, Mask mask) {
  uint8_t* shadow = warp.shadow(row);
  store(shadow, _mm256_blendv_epi8(load(shadow), value, spread(mask)));
}

__m256i anyByte(__m256i value) {
  return _mm256_xor_si256(_mm256_cmpeq_epi8(value, _mm256_setzero_si256()), _mm256_set1_epi8(-1));
}

}  // namespace

void propagateAny(Warp& warp, const Inst& inst, Mask mask) {
  __m256i any = _mm256_setzero_si256();
  for (int i = 0; i < inst.sources; i++)
    any = _mm256_or_si256(any, load(warp.shadow(inst.op[inst.destinations + i])));
  any = anyByte(any);
  for (int i = 0; i < inst.destinations; i++) write(warp, inst.op[i], any, mask);
}

void propagateBytewise(Warp& warp, const Inst& inst, Mask mask) {
  __m256i any = _mm256_setzero_si256();
  for (int i = 0; i < inst.sources; i++)
    any = _mm256_or_si256(any, load(warp.shadow(inst.op[inst.destinations + i])));
  write(warp, inst.op[0], any, mask);
}

void propagateCopy(Warp& warp, const Inst& inst, Mask mask) {
  write(warp, inst.op[0], load(warp.shadow(inst.op[1])), mask);
}

void propagateLowBytes(Warp& warp, const Inst& inst, Mask mask) {
  const __m256i kept = _mm256_set1_epi8(static_cast<char>((1u << inst.flag) - 1));
  write(warp, inst.op[0], _mm256_and_si256(load(warp.shadow(inst.op[1])), kept), mask);
}

void propagateNothing(Warp& warp, const Inst& inst, Mask mask) {
  for (int i = 0; i < inst.destinations; i++) write(warp, inst.op[i], _mm256_setzero_si256(), mask);
}

void propagateByItself(Warp&, const Inst&, Mask) {}

Mask undefinedLanes(Warp& warp, uint32_t row) {
  if (!warp.tainted) return 0;
  return ~static_cast<Mask>(
      _mm256_movemask_epi8(_mm256_cmpeq_epi8(load(warp.shadow(row)), _mm256_setzero_si256())));
}

void setShadow(Warp& warp, uint32_t row, uint8_t bytes, Mask lanes) {
  write(warp, row, _mm256_set1_epi8(static_cast<char>(bytes)), lanes);
}

void reportUndefined(Warp& warp, const Inst& inst, uint32_t row, Mask mask, const char* use) {
  const Mask undefined = undefinedLanes(warp, row) & mask;
  if (!undefined) return;
  warp.report("undefined-value", inst, firstLane(undefined), 0,
              std::string("a value that was never written ") + use);
}

}  // namespace ptxemu
