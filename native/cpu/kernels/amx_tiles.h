// Thin wrappers of Intel's tile instructions (Intel 64 and IA-32 manual, volume 2: LDTILECFG, TILELOADD,
// TILESTORED, TILEZERO, TDPBF16PS, TDPBUSD). With SOFTMOE_EMULATE_AMX the same logic runs on any processor
// with AVX-512 BF16, for tests.
#pragma once

#include "cpu/kernels/simd.h"

namespace softmoe::cpu::SOFTMOE_ISA {

constexpr int kTileHeightMax = 16;  // rows of a tile register
constexpr int kTileBytes = 64;      // bytes of a row

#ifdef SOFTMOE_EMULATE_AMX

struct EmulatedTiles {
  alignas(64) float rows[8][kTileHeightMax][kTileBytes / 4];
};
inline EmulatedTiles& emulated_tiles() {
  static thread_local EmulatedTiles tiles;
  return tiles;
}

class TileScope {};

template <int kTile>
inline void tile_zero() {
  __builtin_memset(emulated_tiles().rows[kTile], 0, sizeof emulated_tiles().rows[kTile]);
}
template <int kTile>
inline void tile_load(const void* data, std::int64_t stride) {
  for (int r = 0; r < kTileHeightMax; ++r) {
    __builtin_memcpy(emulated_tiles().rows[kTile][r], static_cast<const char*>(data) + r * stride,
                     kTileBytes);
  }
}
template <int kTile>
inline void tile_store(void* data, std::int64_t stride) {
  for (int r = 0; r < kTileHeightMax; ++r) {
    __builtin_memcpy(static_cast<char*>(data) + r * stride, emulated_tiles().rows[kTile][r], kTileBytes);
  }
}

// Even and odd elements are summed apart over the 16 pairs, then together, then added (the manual's order).
template <int kSum, int kLeft, int kRight>
inline void tile_multiply() {
  auto& tiles = emulated_tiles().rows;
  const auto half = [](float pair, bool odd) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &pair, sizeof bits);
    bits = odd ? bits & 0xffff0000u : bits << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  };
  for (int m = 0; m < kTileHeightMax; ++m) {
    for (int n = 0; n < kTileBytes / 4; ++n) {
      float even = 0, odd = 0;
      for (int k = 0; k < kTileHeightMax; ++k) {
        even = __builtin_fmaf(half(tiles[kLeft][m][k], false), half(tiles[kRight][k][n], false), even);
        odd = __builtin_fmaf(half(tiles[kLeft][m][k], true), half(tiles[kRight][k][n], true), odd);
      }
      tiles[kSum][m][n] += even + odd;
    }
  }
}

// Bytes, unsigned times signed, into sums of 32 bits.
template <int kSum, int kLeft, int kRight>
inline void tile_multiply_bytes() {
  auto& tiles = emulated_tiles().rows;
  for (int m = 0; m < kTileHeightMax; ++m) {
    for (int n = 0; n < kTileBytes / 4; ++n) {
      std::int32_t sum;
      __builtin_memcpy(&sum, &tiles[kSum][m][n], sizeof sum);
      for (int k = 0; k < kTileHeightMax; ++k) {
        unsigned char left[4];
        signed char right[4];
        __builtin_memcpy(left, &tiles[kLeft][m][k], sizeof left);
        __builtin_memcpy(right, &tiles[kRight][k][n], sizeof right);
        for (int i = 0; i < 4; ++i) sum += left[i] * right[i];
      }
      __builtin_memcpy(&tiles[kSum][m][n], &sum, sizeof sum);
    }
  }
}

#else

struct TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// The tile registers are configured while one of these lives; all eight as 16 rows of 64 bytes.
class TileScope {
 public:
  TileScope() {
    alignas(64) TileConfiguration configuration;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = kTileBytes;
      configuration.rows[tile] = kTileHeightMax;
    }
    _tile_loadconfig(&configuration);
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// The intrinsics want literal numbers.
template <int kTile>
inline void tile_zero() {
  if constexpr (kTile == 0) _tile_zero(0);
  if constexpr (kTile == 1) _tile_zero(1);
  if constexpr (kTile == 2) _tile_zero(2);
  if constexpr (kTile == 3) _tile_zero(3);
}
template <int kTile>
inline void tile_load(const void* data, std::int64_t stride) {
  if constexpr (kTile == 0) _tile_loadd(0, data, stride);
  if constexpr (kTile == 1) _tile_loadd(1, data, stride);
  if constexpr (kTile == 2) _tile_loadd(2, data, stride);
  if constexpr (kTile == 3) _tile_loadd(3, data, stride);
  if constexpr (kTile == 4) _tile_loadd(4, data, stride);
  if constexpr (kTile == 5) _tile_loadd(5, data, stride);
  if constexpr (kTile == 6) _tile_loadd(6, data, stride);
  if constexpr (kTile == 7) _tile_loadd(7, data, stride);
}
template <int kTile>
inline void tile_store(void* data, std::int64_t stride) {
  if constexpr (kTile == 0) _tile_stored(0, data, stride);
  if constexpr (kTile == 1) _tile_stored(1, data, stride);
  if constexpr (kTile == 2) _tile_stored(2, data, stride);
  if constexpr (kTile == 3) _tile_stored(3, data, stride);
}
template <int kSum, int kLeft, int kRight>
inline void tile_multiply() {
  static_assert(kLeft == 4 + kSum / 2 && kRight == 6 + kSum % 2, "sums 0 … 3 are left 4, 5 times right 6, 7");
  if constexpr (kSum == 0) _tile_dpbf16ps(0, 4, 6);
  if constexpr (kSum == 1) _tile_dpbf16ps(1, 4, 7);
  if constexpr (kSum == 2) _tile_dpbf16ps(2, 5, 6);
  if constexpr (kSum == 3) _tile_dpbf16ps(3, 5, 7);
}
template <int kSum, int kLeft, int kRight>
inline void tile_multiply_bytes() {
  static_assert(kLeft == 4 + kSum / 2 && kRight == 6 + kSum % 2, "sums 0 … 3 are left 4, 5 times right 6, 7");
  if constexpr (kSum == 0) _tile_dpbusd(0, 4, 6);
  if constexpr (kSum == 1) _tile_dpbusd(1, 4, 7);
  if constexpr (kSum == 2) _tile_dpbusd(2, 5, 6);
  if constexpr (kSum == 3) _tile_dpbusd(3, 5, 7);
}

#endif

}  // namespace softmoe::cpu::SOFTMOE_ISA
