// Choosing the largest of many numbers, ties to the lower index, NaN as -infinity. Include after
// cpu/kernels/isa.h.
#pragma once

#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

// Larger numbers have larger keys; -0 and 0 are equal, NaN equals -infinity.
inline std::uint32_t order_key(float value) {
  const float clean = value == value ? value + 0.0f : -__builtin_inff();
  std::uint32_t bits;
  __builtin_memcpy(&bits, &clean, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
inline std::uint64_t order_key(double value) {
  const double clean = value == value ? value + 0.0 : -__builtin_inf();
  std::uint64_t bits;
  __builtin_memcpy(&bits, &clean, sizeof bits);
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}

// Indices of the k largest of key_at(0) … key_at(count - 1), best first. Insertion: cheap while k is small,
// since most keys are turned down by one comparison.
template <class KeyAt>
inline void top_k_by(std::int64_t count, std::int64_t k, std::int32_t* indices, const KeyAt& key_at) {
  std::int64_t held = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t key = key_at(i);
    if (held == k && key <= key_at(indices[k - 1])) continue;
    std::int64_t place = held < k ? held++ : k - 1;
    for (; place > 0 && key > key_at(indices[place - 1]); --place) indices[place] = indices[place - 1];
    indices[place] = static_cast<std::int32_t>(i);
  }
}

inline void top_k(const float* values, std::int64_t count, std::int64_t k, std::int32_t* indices) {
  top_k_by(count, k, indices, [values](std::int64_t i) { return order_key(values[i]); });
}

// Indices, ascending, of the k largest of `count` keys, k <= count. Finds the k-th largest key digit by
// digit.
template <class Key>
inline void select_largest(const Key* keys, std::int64_t count, std::int64_t k, std::int32_t* indices) {
  Key prefix = 0, mask = 0;
  std::int64_t wanted = k;  // keys still wanted among those that begin with `prefix`
  for (int shift = static_cast<int>(sizeof(Key)) * 8 - 8; shift >= 0; shift -= 8) {
    std::int64_t histogram[256] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      if ((keys[i] & mask) == prefix) ++histogram[(keys[i] >> shift) & 0xff];
    }
    int digit = 255;
    for (; digit > 0 && histogram[digit] < wanted; --digit) wanted -= histogram[digit];
    prefix |= static_cast<Key>(digit) << shift;
    mask |= static_cast<Key>(0xff) << shift;
    if (histogram[digit] == wanted) break;  // all that begin so are taken
  }
  std::int64_t taken = 0;
  for (std::int64_t i = 0; i < count && taken < k; ++i) {
    const Key head = keys[i] & mask;
    if (head < prefix || (head == prefix && wanted == 0)) continue;
    if (head == prefix) --wanted;
    indices[taken++] = static_cast<std::int32_t>(i);
  }
}

// Sorts indices by keys[index], largest first; equals keep their order. `spare` has room for `count` indices.
inline void sort_by_key(const std::uint32_t* keys, std::int32_t* indices, std::int64_t count,
                        std::int32_t* spare) {
  constexpr std::int64_t kInsertion = 32;
  if (count <= kInsertion) {
    for (std::int64_t i = 1; i < count; ++i) {
      const std::int32_t index = indices[i];
      std::int64_t place = i;
      for (; place > 0 && keys[indices[place - 1]] < keys[index]; --place)
        indices[place] = indices[place - 1];
      indices[place] = index;
    }
    return;
  }
  // By digits from the lowest; an even number of passes, so that the result ends where it began.
  for (int shift = 0; shift < 32; shift += 8) {
    std::int64_t start[257] = {};
    for (std::int64_t i = 0; i < count; ++i) ++start[256 - ((keys[indices[i]] >> shift) & 0xff)];
    for (int digit = 0; digit < 256; ++digit) start[digit + 1] += start[digit];
    for (std::int64_t i = 0; i < count; ++i) {
      spare[start[255 - ((keys[indices[i]] >> shift) & 0xff)]++] = indices[i];
    }
    std::int32_t* const sorted = spare;
    spare = indices;
    indices = sorted;
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
