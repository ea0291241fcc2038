#include "cuda/products.h"

#include <algorithm>
#include <string>

#include "cuda/kernels/narrow_products_params.h"
#include "cuda/wide_products.h"

namespace softmoe::cuda {

namespace {

constexpr std::int64_t kTileColumns = 128;
constexpr std::int64_t kColumnProductRows = 64;
// A fixed number, so that the order of a sum over rows does not depend on the GPU. Twelve ViT-S images of 224
// pixels; enough splits to fill the GPU at training batches, few enough that the second pass stays small.
constexpr std::int64_t kRowsOfSplit = 2048;

// Shared memory of the kernels, as GemmTile computes it: stages of both panels, or the results.
std::size_t shared_bytes(std::int64_t rows, std::int64_t depth_bytes, int stages) {
  const std::int64_t panels = stages * (rows + kTileColumns) * depth_bytes;
  const std::int64_t results = rows * (kTileColumns + 8) * 4;
  return static_cast<std::size_t>(std::max(panels, results));
}

// Float32 weights (and gradients of weights) of at most this many elements are multiplied in float64.
constexpr std::int64_t kSmallWeight = 2048;
constexpr unsigned kNarrowThreads = 128;

bool is_small(DType dtype, std::int64_t weights) {
  return dtype == DType::kFloat32 && weights <= kSmallWeight;
}

std::int32_t narrow(std::int64_t value) { return static_cast<std::int32_t>(value); }

}  // namespace

int row_tile(DType dtype, bool b_transposed, std::int64_t rows_per_group, std::int64_t groups,
             std::int64_t columns, int multiprocessors) {
  const bool small = rows_per_group <= 16;
  if (dtype == DType::kFloat32) return small && !b_transposed ? 16 : 64;
  if (small) return 16;
  if (rows_per_group <= 32 && !b_transposed) return 32;
  if (rows_per_group <= 64) return 64;
  const std::int64_t blocks = divide_up(rows_per_group, 128) * groups * divide_up(columns, kTileColumns);
  return blocks >= 2 * multiprocessors ? 128 : 64;
}

// Every group may add one tile that is not full.
RowTiles::RowTiles(Launcher& launcher, const std::int32_t* offsets, std::int32_t groups, int tile_rows,
                   std::int64_t max_rows)
    : count_(narrow(max_rows / tile_rows + std::min<std::int64_t>(groups, max_rows))),
      tiles_(launcher.workspace_of<RowTile>(count_)) {
  launcher.launch("products_tn", "find_row_tiles", {}, 256, 0,
                  FindRowTiles{offsets, tiles_.as<RowTile>(), groups, tile_rows, count_});
}

void row_product(Launcher& launcher, DType dtype, bool b_transposed, RowProduct p,
                 const std::int32_t* offsets, std::int64_t max_rows) {
  const std::int64_t average_rows = offsets ? divide_up(max_rows, std::max(p.groups, 1)) : p.rows_per_group;
  if (average_rows == 0 || p.groups == 0 || p.columns == 0) return;
  const int rows =
      row_tile(dtype, b_transposed, average_rows, p.groups, p.columns, launcher.properties().multiprocessors);
  p.exact = !launcher.tf32_allowed();
  p.a_aligned = rows_are_aligned(p.a, p.depth, dtype);
  p.b_aligned = rows_are_aligned(p.b, b_transposed ? p.depth : p.columns, dtype);
  p.y_aligned = fours_are_aligned(p.y, p.columns);
  for (const void* other : {static_cast<const void*>(p.bias), static_cast<const void*>(p.pre),
                            p.derivative_at, static_cast<const void*>(p.activated)}) {
    p.y_aligned = p.y_aligned && fours_are_aligned(other, p.columns);
  }
  if (is_small(dtype, std::int64_t{p.depth} * p.columns)) {
    const std::int64_t rows_of_all = offsets ? max_rows : std::int64_t{p.groups} * p.rows_per_group;
    launcher.launch("narrow_products", b_transposed ? "narrow_row_product_nt" : "narrow_row_product_nn",
                    {divide_up(rows_of_all * divide_up(p.columns, 4), kNarrowThreads)}, kNarrowThreads, 0,
                    NarrowRowProduct{p, offsets, narrow(rows_of_all)});
    return;
  }

  if (wide_row_product_serves(launcher, dtype, p, average_rows)) {
    wide_row_product(launcher, b_transposed, p, offsets, max_rows);
    return;
  }

  p.column_tiles = narrow(divide_up(p.columns, kTileColumns));
  const std::string name = std::string("row_product_") + (b_transposed ? "nt_" : "nn_") + name_of(dtype) +
                           "_" + std::to_string(rows);
  const unsigned threads = rows == 128 ? 256 : 128;
  const std::size_t shared =
      rows == 128 ? shared_bytes(128, 64, 4) : shared_bytes(rows, 128, rows == 64 ? 3 : 4);
  const char* file = b_transposed ? "products_nt" : "products_nn";
  if (!offsets) {
    p.row_tiles = narrow(divide_up(p.rows_per_group, rows));
    const std::int64_t blocks = std::int64_t{p.row_tiles} * p.column_tiles * p.groups;
    launcher.launch(file, name.c_str(), {blocks}, threads, shared, p);
    return;
  }
  const RowTiles tiles(launcher, offsets, p.groups, rows, max_rows);
  p.tiles = tiles.data();
  p.row_tiles = tiles.count();
  launcher.launch(file, name.c_str(), {std::int64_t{p.row_tiles} * p.column_tiles}, threads, shared, p);
}

void column_product(Launcher& launcher, DType dtype, bool b_transposed, ColumnProduct p,
                    std::int64_t max_rows) {
  if (is_small(dtype, std::int64_t{p.m} * p.n)) {
    const std::int64_t elements =
        p.groups * ((p.y ? std::int64_t{p.m} * p.n : 0) + (p.column_sums ? p.n : 0));
    launcher.launch("narrow_products", b_transposed ? "narrow_column_product_tt" : "narrow_column_product_tn",
                    {divide_up(32 * elements, kNarrowThreads)}, kNarrowThreads, 0, p);
    return;
  }
  p.m_tiles = narrow(divide_up(p.m, kColumnProductRows));
  p.n_tiles = narrow(divide_up(p.n, kTileColumns));
  if (p.m_tiles == 0 && p.column_sums) p.m_tiles = 1;
  const std::int64_t tiles = std::int64_t{p.m_tiles} * p.n_tiles * p.groups;
  if (tiles == 0) return;
  p.exact = !launcher.tf32_allowed();
  p.a_aligned = rows_are_aligned(p.a, p.m, dtype);
  p.b_aligned = rows_are_aligned(p.b, b_transposed ? p.rows_per_group : p.n, dtype);
  p.y_aligned = fours_are_aligned(p.y, p.n);
  p.splits = p.offsets ? 1 : narrow(std::max<std::int64_t>(1, divide_up(p.rows_per_group, kRowsOfSplit)));
  p.rows_per_split = narrow(kRowsOfSplit);
  const std::string name = std::string("column_product_") + (b_transposed ? "tt_" : "tn_") + name_of(dtype);
  const std::size_t shared = shared_bytes(kColumnProductRows, 128, 3);
  const std::int64_t average_rows = p.offsets ? divide_up(max_rows, p.groups) : p.rows_per_group;
  const bool is_wide = wide_column_product_serves(launcher, dtype, b_transposed, p, average_rows);
  const auto launch = [&](const ColumnProduct& params) {
    if (is_wide) {
      wide_column_product(launcher, params);
      return;
    }
    launcher.launch("products_tn", name.c_str(), {tiles * params.splits}, 128, shared, params);
  };
  if (p.splits == 1) {
    launch(p);
    return;
  }
  const std::int64_t count = std::int64_t{p.groups} * p.m * p.n, sums = std::int64_t{p.groups} * p.n;
  const Workspace partial = launcher.workspace_of<float>(p.splits * count);
  const Workspace partial_sums = launcher.workspace_of<float>(p.column_sums ? p.splits * sums : 0);
  ColumnProduct parts = p;
  parts.y = partial.as<void>();
  parts.y_is_float = true;
  parts.accumulate = false;
  parts.y_aligned = p.n % 4 == 0;
  if (p.column_sums) parts.column_sums = partial_sums.as<float>();
  launch(parts);
  const auto sum = [&](const Workspace& from, void* to, std::int64_t n, bool to_float, bool accumulate) {
    launcher.launch("products_tn", "sum_partials", {divide_up(n, 256)}, 256, 0,
                    SumPartials{from.as<float>(), to, n, p.splits, to_float, accumulate});
  };
  if (p.y) sum(partial, p.y, count, p.y_is_float, p.accumulate);
  if (p.column_sums) sum(partial_sums, p.column_sums, sums, true, false);
}

}  // namespace softmoe::cuda
