// One tile of the matrix product from packed panels, with all accumulators in registers.
#pragma once

#include "cpu/kernels/gemm.h"

namespace softmoe::cpu::SOFTMOE_ISA {

inline Vec multiply_add(Vec sum, float a, Vec b) { return sum + a * b; }
inline Vec load_elements(const float* p) { return load(p); }

#ifdef SOFTMOE_BFLOAT16_PRODUCTS
inline UintVec load_elements(const std::uint32_t* p) { return *reinterpret_cast<const LooseUintVec*>(p); }
inline Vec multiply_add(Vec sum, std::uint32_t a, UintVec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(a - UintVec{}), (__m512bh)b);
}
#endif

template <class Format, int kTileHeight, bool kColumnPanel>
void multiply_rows(int elements, const typename Format::Element* a, const typename Format::Element* b,
                   float* tile, bool accumulate) {
  Vec sums[kTileHeight][kTileVectors];
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      sums[r][v] = accumulate ? load(tile + r * kTileColumns + v * kLanes) : Vec{};
    }
  }
  for (int e = 0; e < elements; ++e) {
    decltype(load_elements(b)) right[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) right[v] = load_elements(b + v * kLanes);
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
      const typename Format::Element left = kColumnPanel ? a[r] : a[r * kPanelStride];
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = multiply_add(sums[r][v], left, right[v]);
    }
    a += kColumnPanel ? Format::kRows : 1;
    b += kTileColumns;
  }
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) store(tile + r * kTileColumns + v * kLanes, sums[r][v]);
  }
}

template <class Format>
using TileFunction = void (*)(int, const typename Format::Element*, const typename Format::Element*, float*,
                              bool);

template <class Format, bool kColumnPanel>
struct TileFunctions {
  template <std::size_t... kRow>
  static TileFunction<Format> get(int rows, std::index_sequence<kRow...>) {
    static constexpr TileFunction<Format> kFunctions[] = {&multiply_rows<Format, kRow + 1, kColumnPanel>...};
    return kFunctions[rows - 1];
  }
};

// tile (+)= A panel * B panel; only `rows` rows of the tile are written.
template <class Format>
inline void multiply_tile(int rows, bool column_panel, int elements, const typename Format::Element* a,
                          const typename Format::Element* b, float* tile, bool accumulate) {
  constexpr auto kRows = std::make_index_sequence<Format::kRows>();
  const auto function = column_panel ? TileFunctions<Format, true>::get(rows, kRows)
                                     : TileFunctions<Format, false>::get(rows, kRows);
  function(elements, a, b, tile, accumulate);
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
