// wgmma.mma_async: the shapes, the operands in shared memory, and the products that are on their way.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "machine.h"

namespace ptxemu {

constexpr int kProductRows = 16;      // of m64, each of the four warps has 16
constexpr int kProductColumns = 256;  // at most
constexpr int kProductDepth = 16;     // at most: 16 elements of two bytes or 8 of four

enum class ProductElement : uint8_t { f16, bf16, tf32 };

// What the instruction does; lies in Inst::immediate.
struct ProductShape {
  uint16_t columns = 0;
  ProductElement element = ProductElement::f16;
  bool registersA = false, negateA = false, negateB = false, transposeA = false, transposeB = false;

  int elementBytes() const { return element == ProductElement::tf32 ? 4 : 2; }
  int depth() const { return 32 / elementBytes(); }
  int registers() const { return columns / 2; }
};
ProductShape shapeOf(const Inst& inst);

// Shared memory matrix descriptor (PTX ISA, "Matrix Descriptor Format"): addresses and offsets in units of 16
// bytes.
struct MatrixDescriptor {
  uint32_t start, leading, stride;
  uint32_t baseOffset;
  int swizzle;  // bytes of the swizzle span: 0, 32, 64, 128

  explicit MatrixDescriptor(uint64_t bits);
  // Address of an element. `outer` counts rows of A or columns of B, `k` the summed dimension; `k` is the
  // contiguous one unless the operand is transposed. The canonical layouts of the PTX ISA, "Strides".
  uint32_t address(int outer, int k, bool transposed, int elementBytes) const;
};

// The accumulators of products of a warp that are on their way: what their registers will hold.
struct FlyingAccumulators {
  std::vector<uint32_t> rows;  // offsets of the registers' rows
  std::vector<std::array<float, kLanes>> values;
  std::vector<uint32_t> undefined;  // a mask of lanes for each register
};

// One product on its way. It reads shared memory until it lands.
struct FlyingProduct {
  const Inst* inst = nullptr;
  uint32_t group = 0;
  uint64_t descriptorA = 0, descriptorB = 0;
  std::array<std::array<uint32_t, kLanes>, 4> registersA{};
  uint32_t undefinedRows = 0;  // of A and columns of B, as far as known when it was issued
  std::array<bool, kProductColumns> undefinedColumns{};
  bool addsToAccumulators = true;
  std::shared_ptr<FlyingAccumulators> accumulators;
};

struct FlyingProducts {
  bool fenced = false;     // wgmma.fence was executed once
  uint32_t committed = 0;  // groups
  std::deque<FlyingProduct> queue;

  // Products of all but the last `keep` committed groups land; registers that nothing more is added to are
  // written.
  void land(Warp& warp, uint32_t keep);
};

// Checks the operands in shared memory; says no after a fault. Undefined elements are noted in the product.
bool checkOperands(Warp& warp, FlyingProduct& product);
// Adds the product to its accumulators.
void addProduct(Warp& warp, FlyingProduct& product);

}  // namespace ptxemu
