// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed as RandomKey
// says, and the distributions made from it. Plain arithmetic without branches: the same text serves the host,
// where loops over it vectorise, and the device.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/kernels/elementwise.h"

#if defined(__CUDACC__)
#define SOFTMOE_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SOFTMOE_HOST_DEVICE inline
#endif

namespace softmoe {

struct PhiloxBlock {
  std::uint32_t word[4];
};

// Block `block` of the stream: the words of the elements 4 * block … 4 * block + 3.
SOFTMOE_HOST_DEVICE PhiloxBlock philox(const RandomKey& key, std::uint64_t block) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(key.stream),
                c3 = static_cast<std::uint32_t>(key.stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(product1);
    c2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

SOFTMOE_HOST_DEVICE float uniform_from_word(std::uint32_t word) {
  return static_cast<float>(static_cast<std::int32_t>(word >> 8)) * 0x1p-24f;
}

// ln(x) for normal x > 0, with the polynomial of Cephes' logf.
SOFTMOE_HOST_DEVICE float logarithm(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // x = mantissa * 2^exponent with mantissa in [sqrt(1/2), sqrt(2)).
  const std::uint32_t shifted = bits - 0x3f3504f3u;
  const float exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const std::uint32_t mantissa_bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
  float mantissa;
  std::memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
  const float t = mantissa - 1.0f;
  float p = 7.0376836292e-2f;
  p = p * t - 1.1514610310e-1f;
  p = p * t + 1.1676998740e-1f;
  p = p * t - 1.2420140846e-1f;
  p = p * t + 1.4249322787e-1f;
  p = p * t - 1.6668057665e-1f;
  p = p * t + 2.0000714765e-1f;
  p = p * t - 2.4999993993e-1f;
  p = p * t + 3.3333331174e-1f;
  const float square = t * t;
  const float tail = p * t * square - 2.12194440e-4f * exponent - 0.5f * square;
  return 0.693359375f * exponent + (t + tail);
}

struct SineCosine {
  float sine, cosine;
};

// Sine and cosine of 2 pi times the uniform number of `word`. The quarter turn is split off exactly.
SOFTMOE_HOST_DEVICE SineCosine sine_cosine_from_word(std::uint32_t word) {
  const std::uint32_t turn = word >> 8;                    // 24 bits
  const std::uint32_t quarter = (turn + 0x200000u) >> 22;  // nearest multiple of a quarter turn
  const std::int32_t rest = static_cast<std::int32_t>(turn) - static_cast<std::int32_t>(quarter << 22);
  const float angle = static_cast<float>(rest) * (1.57079632679489662f * 0x1p-22f);  // in [-pi/4, pi/4]
  const float square = angle * angle;
  float s = -1.9515295891e-4f;
  s = s * square + 8.3321608736e-3f;
  s = s * square - 1.6666654611e-1f;
  const float sine = s * square * angle + angle;
  float c = 2.443315711809948e-5f;
  c = c * square - 1.388731625493765e-3f;
  c = c * square + 4.166664568298827e-2f;
  const float cosine = c * square * square - 0.5f * square + 1.0f;
  const bool odd = (quarter & 1) != 0;
  const float a = odd ? cosine : sine, b = odd ? sine : cosine;
  return {(quarter & 2) ? -a : a, ((quarter + 1) & 2) ? -b : b};
}

// Radius of Box and Muller from the even word of a pair.
SOFTMOE_HOST_DEVICE float normal_radius(std::uint32_t even_word) {
  const float x = static_cast<float>(static_cast<std::int32_t>((even_word >> 8) + 1)) * 0x1p-24f;
  return __builtin_sqrtf(-2.0f * logarithm(x));
}

// Standard normal truncated to [-2, 2]: sqrt(2) * erfinv(erf(sqrt(2)) * (2 u - 1)), with the central
// polynomial of Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011).
SOFTMOE_HOST_DEVICE float truncated_normal_from_word(std::uint32_t word) {
  const float x = 0.954499736103641586f * (2.0f * uniform_from_word(word) - 1.0f);
  const float w = -logarithm((1.0f - x) * (1.0f + x)) - 2.5f;
  float p = 2.81022636e-8f;
  p = p * w + 3.43273939e-7f;
  p = p * w - 3.5233877e-6f;
  p = p * w - 4.39150654e-6f;
  p = p * w + 2.1858087e-4f;
  p = p * w - 1.25372503e-3f;
  p = p * w - 4.17768164e-3f;
  p = p * w + 2.46640727e-1f;
  p = p * w + 1.50140941f;
  const float y = p * x * 1.41421356237309505f;
  return y < -2.0f ? -2.0f : y > 2.0f ? 2.0f : y;
}

// Element `index` alone. Loops do better block by block.
SOFTMOE_HOST_DEVICE float uniform(const RandomKey& key, std::uint64_t index) {
  return uniform_from_word(philox(key, index / 4).word[index % 4]);
}

SOFTMOE_HOST_DEVICE float normal(const RandomKey& key, std::uint64_t index) {
  const PhiloxBlock block = philox(key, index / 4);
  const bool second_pair = (index & 2) != 0;
  const SineCosine turn = sine_cosine_from_word(second_pair ? block.word[3] : block.word[1]);
  const float radius = normal_radius(second_pair ? block.word[2] : block.word[0]);
  return radius * ((index & 1) ? turn.sine : turn.cosine);
}

}  // namespace softmoe
