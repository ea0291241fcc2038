// Philox by tiles of 64 elements: sixteen counters advance side by side. Include after cpu/kernels/isa.h.
#pragma once

#include "core/philox.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

constexpr std::int64_t kRandomTile = 64;
constexpr int kTileBlocks = kRandomTile / 4;

// Element 4 * j + w of the tile has word[w][j].
struct alignas(64) TileWords {
  std::uint32_t word[4][kTileBlocks];
};

typedef std::uint64_t WideVec __attribute__((vector_size(4 * kLanes)));

// Products of the even lanes.
inline WideVec multiply_even(UintVec a, std::uint32_t factor) {
#if defined(SOFTMOE_WIDE_VECTORS)
  // The masked form with all lanes on: GCC 12 warns of its own header in the plain one.
  return (WideVec)_mm512_maskz_mul_epu32(0xff, (__m512i)a, _mm512_set1_epi32(static_cast<int>(factor)));
#elif defined(SOFTMOE_ISA_AVX2)
  return (WideVec)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi32(static_cast<int>(factor)));
#elif defined(__x86_64__)
  return (WideVec)_mm_mul_epu32((__m128i)a, _mm_set1_epi32(static_cast<int>(factor)));
#else
  return ((WideVec)a & 0xffffffffu) * std::uint64_t{factor};
#endif
}

// The upper and lower halves of a * factor.
struct WideProduct {
  UintVec high, low;
};
inline WideProduct multiply_wide(UintVec a, std::uint32_t factor) {
  const WideVec even = multiply_even(a, factor), odd = multiply_even((UintVec)((WideVec)a >> 32), factor);
  const WideVec low_half = WideVec{} + 0xffffffffu;
  return {(UintVec)((even >> 32) | (odd & ~low_half)), (UintVec)((even & low_half) | (odd << 32))};
}

// Words of the elements [64 * tile, 64 * tile + 64).
inline TileWords random_words(const RandomKey& key, std::int64_t tile) {
  TileWords words;
  const std::uint64_t first = static_cast<std::uint64_t>(tile) * kTileBlocks;
  for (int j = 0; j < kTileBlocks; j += kLanes) {
    // A tile never crosses 2^32 blocks, so the lower word of the counter does not carry.
    UintVec c0 =
        (UintVec)lane_indices() + (static_cast<std::uint32_t>(first) + static_cast<std::uint32_t>(j));
    UintVec c1 = UintVec{} + static_cast<std::uint32_t>(first >> 32);
    UintVec c2 = UintVec{} + static_cast<std::uint32_t>(key.stream);
    UintVec c3 = UintVec{} + static_cast<std::uint32_t>(key.stream >> 32);
    std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const WideProduct product0 = multiply_wide(c0, 0xD2511F53), product1 = multiply_wide(c2, 0xCD9E8D57);
      c0 = product1.high ^ c1 ^ k0;
      c1 = product1.low;
      c2 = product0.high ^ c3 ^ k1;
      c3 = product0.low;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    *reinterpret_cast<UintVec*>(words.word[0] + j) = c0;
    *reinterpret_cast<UintVec*>(words.word[1] + j) = c1;
    *reinterpret_cast<UintVec*>(words.word[2] + j) = c2;
    *reinterpret_cast<UintVec*>(words.word[3] + j) = c3;
  }
  return words;
}

// draws[4 * j + w] = by_word[w][j].
inline void interleave(const float (&by_word)[4][kTileBlocks], float* draws) {
  for (int j = 0; j < kTileBlocks; ++j) {
    draws[4 * j] = by_word[0][j];
    draws[4 * j + 1] = by_word[1][j];
    draws[4 * j + 2] = by_word[2][j];
    draws[4 * j + 3] = by_word[3][j];
  }
}

// Draws of the elements of a tile.
inline void uniform_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  const TileWords words = random_words(key, tile);
  alignas(64) float by_word[4][kTileBlocks];
  for (int w = 0; w < 4; ++w) {
    for (int j = 0; j < kTileBlocks; ++j) by_word[w][j] = uniform_from_word(words.word[w][j]);
  }
  interleave(by_word, draws);
}

inline void truncated_normal_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  const TileWords words = random_words(key, tile);
  alignas(64) float by_word[4][kTileBlocks];
  for (int w = 0; w < 4; ++w) {
    for (int j = 0; j < kTileBlocks; ++j) by_word[w][j] = truncated_normal_from_word(words.word[w][j]);
  }
  interleave(by_word, draws);
}

inline void normal_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  const TileWords words = random_words(key, tile);
  alignas(64) float by_word[4][kTileBlocks];
  for (int w = 0; w < 4; w += 2) {
    for (int j = 0; j < kTileBlocks; ++j) {
      const float radius = normal_radius(words.word[w][j]);
      const SineCosine turn = sine_cosine_from_word(words.word[w + 1][j]);
      by_word[w][j] = radius * turn.cosine;
      by_word[w + 1][j] = radius * turn.sine;
    }
  }
  interleave(by_word, draws);
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
