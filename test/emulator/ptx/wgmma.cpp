// wgmma: fence, mma_async m64nNk16 for bf16 and f16 and m64nNk8 for tf32 with f32 accumulators, commit_group,
// wait_group. Operands lie in shared memory as matrix descriptors say, A alternatively in registers.
//
// A product is computed when a wait lets it land, from what shared memory holds then. Until then its
// accumulators hold NaNs and count as undefined, so that reading them early shows, and its operands count as
// being read, so that overwriting them early shows. Values of A in registers are those at issue.
#include "wgmma.h"

#include <algorithm>
#include <cstring>

#include "access.h"
#include "decoder.h"
#include "definedness.h"
#include "matrix.h"

namespace ptxemu {

ProductShape shapeOf(const Inst& inst) {
  ProductShape shape;
  std::memcpy(static_cast<void*>(&shape), &inst.immediate, sizeof shape);
  return shape;
}

namespace {

FlyingProducts& productsOf(Warp& warp) {
  if (!warp.products) warp.products = std::make_shared<FlyingProducts>();
  return *warp.products;
}

// The accumulators on their way in the registers of the instruction, or new ones with the registers' values.
// Registers that are on their way in another shape or order may not be named.
std::shared_ptr<FlyingAccumulators> accumulatorsOf(Warp& warp, const Inst& inst, int registers) {
  const std::vector<uint32_t> rows(inst.op, inst.op + registers);
  for (const FlyingProduct& other : productsOf(warp).queue) {
    if (other.accumulators->rows == rows) return other.accumulators;
    const bool overlaps = std::any_of(rows.begin(), rows.end(), [&](uint32_t row) {
      const auto& taken = other.accumulators->rows;
      return std::find(taken.begin(), taken.end(), row) != taken.end();
    });
    if (overlaps) {
      warp.report("bad-operand", inst, 0, 0,
                  "accumulators are still on their way in a product of another shape or order");
      return nullptr;
    }
  }
  auto fresh = std::make_shared<FlyingAccumulators>();
  fresh->rows = rows;
  fresh->values.resize(rows.size());
  fresh->undefined.resize(rows.size());
  for (size_t i = 0; i < rows.size(); i++) {
    float* row = warp.row<float>(rows[i]);
    std::copy(row, row + kLanes, fresh->values[i].begin());
    fresh->undefined[i] = undefinedLanes(warp, rows[i]);
    std::memset(row, 0xff, sizeof fresh->values[i]);
  }
  if (warp.definedness) {
    warp.tainted = true;
    for (uint32_t row : rows) setShadow(warp, row, 0xff, kAllLanes);
  }
  return fresh;
}

// op: accumulators (destinations), accumulators again (sources), A (descriptor or four registers), B, scale.
void executeProduct(Warp& warp, const Inst& inst, Mask mask) {
  if (!wholeWarp(warp, inst, mask)) return;
  const ProductShape shape = shapeOf(inst);
  const int registers = shape.registers();
  const uint32_t* operands = inst.op + 2 * registers;
  FlyingProducts& products = productsOf(warp);
  if (!products.fenced && warp.block->checks.races) {
    warp.report("race", inst, 0, 0, "no wgmma.fence orders the registers before this first product");
    products.fenced = true;
  }
  FlyingProduct product;
  product.inst = &inst;
  product.group = products.committed;
  const int wordsA = shape.registersA ? 4 : 1;
  for (int i = 0; shape.registersA && i < wordsA; i++) {
    std::memcpy(product.registersA[i].data(), warp.row<uint32_t>(operands[i]), sizeof product.registersA[i]);
    forLanes(undefinedLanes(warp, operands[i]),
             [&](int lane) { product.undefinedRows |= 1u << (lane / 4 + i % 2 * 8); });
  }
  if (!shape.registersA) product.descriptorA = warp.row<uint64_t>(operands[0])[0];
  product.descriptorB = warp.row<uint64_t>(operands[wordsA])[0];
  product.addsToAccumulators = warp.predicate(operands[wordsA + 1]) & 1;
  if (warp.tainted) {
    if (!shape.registersA) reportUndefined(warp, inst, operands[0], kAllLanes, "is a matrix descriptor");
    reportUndefined(warp, inst, operands[wordsA], kAllLanes, "is a matrix descriptor");
  }
  if (warp.checking && !checkOperands(warp, product)) return;
  product.accumulators = accumulatorsOf(warp, inst, registers);
  if (!product.accumulators) return;
  Counters& counters = warp.block->counters;
  counters.mma++;
  counters.mmaFlops += 2ull * kProductRows * shape.columns * shape.depth();
  products.queue.push_back(std::move(product));
}

}  // namespace

void FlyingProducts::land(Warp& warp, uint32_t keep) {
  while (!queue.empty() && queue.front().group < committed && committed - queue.front().group > keep) {
    FlyingProduct product = std::move(queue.front());
    queue.pop_front();
    // It read until now, so who overwrote its operands was too early.
    if (warp.checking && !checkOperands(warp, product)) return;
    addProduct(warp, product);
    const FlyingAccumulators& sums = *product.accumulators;
    if (product.accumulators.use_count() > 1) continue;
    for (size_t i = 0; i < sums.rows.size(); i++) {
      std::copy(sums.values[i].begin(), sums.values[i].end(), warp.row<float>(sums.rows[i]));
      if (!warp.definedness) continue;
      if (sums.undefined[i]) warp.tainted = true;
      if (!warp.tainted) continue;
      setShadow(warp, sums.rows[i], 0, kAllLanes);
      setShadow(warp, sums.rows[i], 0xff, sums.undefined[i]);
    }
  }
}

namespace {

ProductElement elementOf(Decoder& decoder) {
  if (!decoder.take("f32")) decoder.unsupported("accumulators other than f32");
  for (const auto& [name, element] : {std::pair("bf16", ProductElement::bf16),
                                      {"tf32", ProductElement::tf32},
                                      {"f16", ProductElement::f16}}) {
    if (decoder.take(name) && decoder.take(name)) return element;
  }
  decoder.unsupported("element type");
}

// 1 or -1, and 0 or 1: anything else is no PTX.
bool isNegative(const Decoder& decoder, const Operand& operand) {
  const int64_t scale = decoder.constantOf(operand);
  if (scale != 1 && scale != -1) decoder.unsupported("a scale other than 1 and -1");
  return scale == -1;
}
bool isTransposed(const Decoder& decoder, const Operand& operand) {
  const int64_t transposed = decoder.constantOf(operand);
  if (transposed != 0 && transposed != 1) decoder.unsupported("a transposition other than 0 and 1");
  return transposed == 1;
}

bool decodeProduct(Decoder& decoder) {
  Inst& inst = decoder.inst;
  const std::string name = decoder.modifiers().empty() ? "" : decoder.modifiers()[0];
  decoder.take(name);
  ProductShape shape;
  shape.element = elementOf(decoder);
  decoder.allTaken();
  const std::string depth = "k" + std::to_string(shape.depth());
  const size_t digits = name.find_first_not_of("0123456789", 4);
  if (name.compare(0, 4, "m64n") != 0 || digits == std::string::npos || name.substr(digits) != depth ||
      digits == 4 || digits > 7) {
    decoder.unsupported("shape");
  }
  shape.columns = static_cast<uint16_t>(std::stoi(name.substr(4, digits - 4)));
  if (shape.columns % 8 || shape.columns == 0 || shape.columns > kProductColumns)
    decoder.unsupported("shape");
  const std::vector<Operand>& accumulators = decoder.operand(0).items;
  if (accumulators.size() != static_cast<size_t>(shape.registers()))
    decoder.unsupported("another number of accumulators");
  for (const Operand& item : accumulators) decoder.destination(item, OperandType::float32);
  for (const Operand& item : accumulators) decoder.source(item, OperandType::float32);
  const Operand& a = decoder.operand(1);
  shape.registersA = a.kind == Operand::Kind::vector;
  if (shape.registersA) {
    if (a.items.size() != 4) decoder.unsupported("another number of registers for A");
    for (const Operand& item : a.items) decoder.source(item, OperandType::bits32);
  } else {
    decoder.source(a, OperandType::bits64);
  }
  decoder.source(decoder.operand(2), OperandType::bits64);
  decoder.source(decoder.operand(3), OperandType::predicate);
  shape.negateA = isNegative(decoder, decoder.operand(4));
  shape.negateB = isNegative(decoder, decoder.operand(5));
  size_t next = 6;
  // tf32 is K-major only.
  if (shape.element != ProductElement::tf32) {
    if (!shape.registersA) shape.transposeA = isTransposed(decoder, decoder.operand(next++));
    shape.transposeB = isTransposed(decoder, decoder.operand(next++));
  }
  if (decoder.operandCount() != next) decoder.unsupported("another number of operands");
  static_assert(sizeof(ProductShape) <= sizeof inst.immediate, "fits into the immediate");
  std::memcpy(&inst.immediate, static_cast<const void*>(&shape), sizeof shape);
  inst.elementBytes = static_cast<uint8_t>(shape.elementBytes());
  inst.writesLater = true;
  inst.space = Space::shared;
  inst.execute = executeProduct;
  inst.propagate = propagateByItself;
  return true;
}

}  // namespace

bool decodeWgmma(Decoder& decoder) {
  if (decoder.base() != "wgmma") return false;
  Inst& inst = decoder.inst;
  inst.kind = Kind::convergeHere;
  inst.category = Category::warpLevel;
  const std::string name = decoder.takeAny({"mma_async", "fence", "commit_group", "wait_group"});
  if (name.empty() || !decoder.take("sync") || !decoder.take("aligned")) decoder.unsupported();
  if (name == "mma_async") return decodeProduct(decoder);
  decoder.allTaken();
  if (name == "fence") {
    inst.execute = [](Warp& warp, const Inst&, Mask) { productsOf(warp).fenced = true; };
  } else if (name == "commit_group") {
    inst.execute = [](Warp& warp, const Inst&, Mask) { productsOf(warp).committed++; };
  } else {
    inst.immediate = decoder.constantOf(decoder.operand(0));
    inst.execute = [](Warp& warp, const Inst& inst, Mask) {
      productsOf(warp).land(warp, static_cast<uint32_t>(inst.immediate));
    };
  }
  return true;
}

}  // namespace ptxemu
