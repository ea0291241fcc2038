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
struct TileRegisters {
  using Element = typename Format::Element;
  Vec sums[kTileHeight][kTileVectors];

  void multiply(const Element* a, const Element* b) {
    decltype(load_elements(b)) right[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) right[v] = load_elements(b + v * kLanes);
#pragma GCC unroll 32
    for (int r = 0; r < kTileHeight; ++r) {
      const Element left = kColumnPanel ? a[r] : a[r * kPanelStride];
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = multiply_add(sums[r][v], left, right[v]);
    }
  }
};

// The first `line_count` steps also ask for one cache line each.
template <class Format, int kTileHeight, bool kColumnPanel>
void multiply_rows(int elements, const typename Format::Element* a, const typename Format::Element* b,
                   float* tile, bool accumulate, const char* const* lines, int line_count) {
  constexpr int kStep = kColumnPanel ? Format::kRows : 1;
  TileRegisters<Format, kTileHeight, kColumnPanel> registers;
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) {
      registers.sums[r][v] = accumulate ? load(tile + r * kTileColumns + v * kLanes) : Vec{};
    }
  }
  int e = 0;
  for (; e < smaller(elements, line_count); ++e, a += kStep, b += kTileColumns) {
    __builtin_prefetch(lines[e], 0, 2);
    registers.multiply(a, b);
  }
  for (; e < elements; ++e, a += kStep, b += kTileColumns) registers.multiply(a, b);
#pragma GCC unroll 32
  for (int r = 0; r < kTileHeight; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) store(tile + r * kTileColumns + v * kLanes, registers.sums[r][v]);
  }
}

// The same tile with float64 sums: exact but for one rounding, at a fraction of the speed.
template <bool kColumnPanel>
void multiply_rows_precisely(int rows, int elements, const float* a, const float* b, float* tile,
                             bool accumulate) {
  for (int r = 0; r < rows; ++r) {
    double sums[kTileColumns];
    for (int c = 0; c < kTileColumns; ++c) sums[c] = accumulate ? tile[r * kTileColumns + c] : 0;
    for (int e = 0; e < elements; ++e) {
      const double left = kColumnPanel ? a[e * kTileRows + r] : a[r * kPanelStride + e];
      for (int c = 0; c < kTileColumns; ++c) sums[c] += left * static_cast<double>(b[e * kTileColumns + c]);
    }
    for (int c = 0; c < kTileColumns; ++c) tile[r * kTileColumns + c] = static_cast<float>(sums[c]);
  }
}

template <class Format>
using TileFunction = void (*)(int, const typename Format::Element*, const typename Format::Element*, float*,
                              bool, const char* const*, int);

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
                          const typename Format::Element* b, float* tile, bool accumulate,
                          const char* const* lines, int line_count, [[maybe_unused]] bool precise) {
  if constexpr (std::is_same_v<Format, Float32Format>) {
    if (precise) {
      if (column_panel) {
        multiply_rows_precisely<true>(rows, elements, a, b, tile, accumulate);
      } else {
        multiply_rows_precisely<false>(rows, elements, a, b, tile, accumulate);
      }
      return;
    }
  }
  constexpr auto kRows = std::make_index_sequence<Format::kRows>();
  const auto function = column_panel ? TileFunctions<Format, true>::get(rows, kRows)
                                     : TileFunctions<Format, false>::get(rows, kRows);
  function(elements, a, b, tile, accumulate, lines, line_count);
}

}  // namespace softmoe::cpu::SOFTMOE_ISA
