// Philox by tiles of 64 elements, so that sixteen counters advance side by side. Include after
// cpu/kernels/isa.h.
#pragma once

#include "core/philox.h"
#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

constexpr std::int64_t kRandomTile = 64;

// Words of the elements [64 * tile, 64 * tile + 64).
inline void random_words(const RandomKey& key, std::int64_t tile, std::uint32_t* words) {
  constexpr int kBlocks = kRandomTile / 4;
  std::uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  const std::uint64_t first = static_cast<std::uint64_t>(tile) * kBlocks;
  for (int j = 0; j < kBlocks; ++j) {
    c0[j] = static_cast<std::uint32_t>(first) +
            static_cast<std::uint32_t>(j);  // a tile never crosses 2^32 blocks
    c1[j] = static_cast<std::uint32_t>(first >> 32);
    c2[j] = static_cast<std::uint32_t>(key.stream);
    c3[j] = static_cast<std::uint32_t>(key.stream >> 32);
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int j = 0; j < kBlocks; ++j) {
      const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c0[j];
      const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c2[j];
      c0[j] = static_cast<std::uint32_t>(product1 >> 32) ^ c1[j] ^ k0;
      c1[j] = static_cast<std::uint32_t>(product1);
      c2[j] = static_cast<std::uint32_t>(product0 >> 32) ^ c3[j] ^ k1;
      c3[j] = static_cast<std::uint32_t>(product0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  for (int j = 0; j < kBlocks; ++j) {
    words[4 * j] = c0[j];
    words[4 * j + 1] = c1[j];
    words[4 * j + 2] = c2[j];
    words[4 * j + 3] = c3[j];
  }
}

// Draws of the elements of a tile.
inline void uniform_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  std::uint32_t words[kRandomTile];
  random_words(key, tile, words);
  for (int i = 0; i < kRandomTile; ++i) draws[i] = uniform_from_word(words[i]);
}

inline void truncated_normal_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  std::uint32_t words[kRandomTile];
  random_words(key, tile, words);
  for (int i = 0; i < kRandomTile; ++i) draws[i] = truncated_normal_from_word(words[i]);
}

inline void normal_tile(const RandomKey& key, std::int64_t tile, float* draws) {
  std::uint32_t words[kRandomTile];
  random_words(key, tile, words);
  for (int i = 0; i < kRandomTile; i += 2) {
    const float radius = normal_radius(words[i]);
    const SineCosine turn = sine_cosine_from_word(words[i + 1]);
    draws[i] = radius * turn.cosine;
    draws[i + 1] = radius * turn.sine;
  }
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
