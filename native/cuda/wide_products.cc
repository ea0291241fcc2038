#include "cuda/wide_products.h"

#include <array>

#include "cuda/kernels/wide_products_params.h"

namespace softmoe::cuda {

namespace {

// Values of CUtensorMapDataType, CUtensorMapSwizzle, CUtensorMapL2promotion.
constexpr int kTensorMapBFloat16 = 9;
constexpr int kTensorMapSwizzle128Bytes = 3;
constexpr int kTensorMapPromote128Bytes = 2;

// A dense bfloat16 tensor [groups][rows, columns], read in boxes of 64 columns x box_rows. The map is written
// in its place: some compilers misalign what a function returns.
void describe(const Driver& driver, TensorMap& map, const void* data, std::int64_t columns, std::int64_t rows,
              std::int64_t groups, int box_rows) {
  const auto pitch = static_cast<std::uint64_t>(columns) * 2;
  const std::array<std::uint64_t, 3> extents{static_cast<std::uint64_t>(columns),
                                             static_cast<std::uint64_t>(rows),
                                             static_cast<std::uint64_t>(groups)};
  const std::array<std::uint64_t, 2> pitches{pitch, pitch * static_cast<std::uint64_t>(rows)};
  const std::array<unsigned, 3> box{kWideSpan, static_cast<unsigned>(box_rows), 1};
  const std::array<unsigned, 3> steps{1, 1, 1};
  driver.check(driver.tensor_map_encode(&map, kTensorMapBFloat16, 3, const_cast<void*>(data), extents.data(),
                                        pitches.data(), box.data(), steps.data(), 0,
                                        kTensorMapSwizzle128Bytes, kTensorMapPromote128Bytes, 0),
               "describing a tensor for tile copies");
}

}  // namespace

bool wide_row_product_serves(const Launcher& launcher, DType dtype, const RowProduct& p,
                             std::int64_t average_rows) {
  return launcher.wgmma_allowed() && dtype == DType::kBFloat16 && p.depth > 0 && average_rows >= kWideRows &&
         p.a_aligned && p.b_aligned;
}

void wide_row_product(Launcher& launcher, bool b_transposed, const RowProduct& product,
                      const std::int32_t* offsets, std::int64_t max_rows) {
  const Driver& driver = launcher.driver();
  WideRowProduct params{};
  params.product = product;
  RowProduct& p = params.product;
  p.column_tiles = static_cast<std::int32_t>(divide_up(p.columns, kWideColumns));
  if (b_transposed) {
    describe(driver, params.b, p.b, p.depth, p.columns, p.groups, kWideColumns);
  } else {
    describe(driver, params.b, p.b, p.columns, p.depth, p.groups, kWideDepth);
  }
  const auto launch = [&](const char* nn, const char* nt, std::int64_t row_tiles) {
    launcher.launch("wide_products.sm90a", b_transposed ? nt : nn, {row_tiles * p.column_tiles}, kWideThreads,
                    kWideSharedBytes, params);
  };
  if (offsets) {
    const RowTiles tiles(launcher, offsets, p.groups, kWideRows, max_rows);
    p.tiles = tiles.data();
    p.row_tiles = tiles.count();
    launch("wide_listed_row_product_nn", "wide_listed_row_product_nt", p.row_tiles);
    return;
  }
  p.row_tiles = static_cast<std::int32_t>(divide_up(p.rows_per_group, kWideRows));
  const std::int64_t row_tiles = std::int64_t{p.row_tiles} * p.groups;
  if (p.gather) {
    launch("wide_listed_row_product_nn", "wide_listed_row_product_nt", row_tiles);
    return;
  }
  describe(driver, params.a, p.a, p.depth, p.rows_per_group, p.groups, kWideRows);
  launch("wide_row_product_nn", "wide_row_product_nt", row_tiles);
}

bool wide_column_product_serves(const Launcher& launcher, DType dtype, bool b_transposed,
                                const ColumnProduct& p, std::int64_t average_rows) {
  return launcher.wgmma_allowed() && dtype == DType::kBFloat16 && !b_transposed && p.m > 0 &&
         average_rows >= kWideRows && p.a_aligned && p.b_aligned;
}

void wide_column_product(Launcher& launcher, const ColumnProduct& product) {
  const Driver& driver = launcher.driver();
  WideColumnProduct params{};
  params.product = product;
  ColumnProduct& p = params.product;
  p.m_tiles = static_cast<std::int32_t>(divide_up(p.m, kWideRows));
  const bool is_listed = p.offsets || p.gather;
  if (!is_listed) {
    describe(driver, params.a, p.a, p.m, p.rows_per_group, p.groups, kWideDepth);
    describe(driver, params.b, p.b, p.n, p.rows_per_group, p.groups, kWideDepth);
  }
  launcher.launch(
      "wide_column_products.sm90a", is_listed ? "wide_listed_column_product" : "wide_column_product",
      {std::int64_t{p.m_tiles} * p.n_tiles * p.groups * p.splits}, kWideThreads, kWideSharedBytes, params);
}

}  // namespace softmoe::cuda
