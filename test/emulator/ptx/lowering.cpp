#include "lowering.h"

#include <algorithm>

#include "decoder.h"
#include "liveness.h"

namespace ptxemu {
namespace {

uint64_t alignUp(uint64_t value, uint64_t align) {
  return align ? (value + align - 1) / align * align : value;
}

class KernelLowering : public DecodeContext {
 public:
  KernelLowering(const ModuleSymbols& symbols, const Function& entry)
      : symbols_(symbols), entry_(entry), flat_(inlineCalls(*symbols.tree, entry, symbols.functions)) {}

  std::unique_ptr<Kernel> run() {
    kernel_ = std::make_unique<Kernel>();
    program_ = std::make_shared<Program>();
    kernel_->name = program_->name = entry_.name;
    kernel_->maxThreads = entry_.maxThreads;
    program_->files = symbols_.tree->files;
    placeVariables();
    for (uint8_t bytes : flat_.registerBytes) rows.push_back({RowPlan::Kind::reg, bytes, 0});
    carryRow = static_cast<uint32_t>(rows.size());
    rows.push_back({RowPlan::Kind::reg, 0, 0});
    registers_ = rows.size();
    for (const Statement& statement : flat_.statements) decode(statement);
    allocate();
    finish();
    return std::move(kernel_);
  }

  Place placeOf(const Operand& operand, int ptxLine) override {
    if (operand.kind == Operand::Kind::variable)
      return {flat_.variables[operand.index].space, offsets_[operand.index]};
    if (const auto global = symbols_.globals.find(operand.name); global != symbols_.globals.end()) {
      return {Space::global, global->second};
    }
    if (const auto shared = sharedOffsets_.find(operand.name); shared != sharedOffsets_.end()) {
      return {Space::shared, shared->second};
    }
    if (const auto function = symbols_.functions.find(operand.name); function != symbols_.functions.end()) {
      return {Space::global, function->second};
    }
    throw ParseError(ptxLine, "unknown name '" + operand.name + "'");
  }

 private:
  // -- variables
  // ----------------------------------------------------------------------------------------------------
  void placeVariables() {
    offsets_.assign(flat_.variables.size(), 0);
    uint64_t param = 0, local = 0, shared = 0;
    for (int index : flat_.parameters) {
      const Variable& variable = flat_.variables[index];
      param = alignUp(param, variable.align);
      offsets_[index] = param;
      kernel_->params.push_back({static_cast<uint32_t>(param), static_cast<uint32_t>(variable.bytes)});
      param += variable.bytes;
    }
    for (size_t i = 0; i < flat_.variables.size(); i++) {
      const Variable& variable = flat_.variables[i];
      if (variable.space != Space::local && variable.space != Space::shared) continue;
      uint64_t& end = variable.space == Space::local ? local : shared;
      end = alignUp(end, variable.align);
      offsets_[i] = end;
      end += variable.bytes;
    }
    placeSharedOfModule(shared);
    kernel_->paramBytes = program_->paramBytes = static_cast<uint32_t>(param);
    kernel_->localBytes = program_->localBytes = static_cast<uint32_t>(alignUp(local, 16));
    kernel_->staticShared = program_->sharedBytes = static_cast<uint32_t>(shared);
  }

  // Variables of the module that this kernel names; dynamic arrays all begin behind the static ones.
  void placeSharedOfModule(uint64_t& end) {
    std::vector<const Variable*> dynamic;
    for (const Statement& statement : flat_.statements) {
      for (const Operand& operand : statement.operands) collectShared(operand, end, dynamic);
    }
    uint64_t align = 1;
    for (const Variable* variable : dynamic) align = std::max<uint64_t>(align, variable->align);
    if (!dynamic.empty()) end = alignUp(end, align);
    for (const Variable* variable : dynamic) sharedOffsets_[variable->name] = end;
    program_->usesDynamicShared = !dynamic.empty();
  }

  void collectShared(const Operand& operand, uint64_t& end, std::vector<const Variable*>& dynamic) {
    for (const Operand& item : operand.items) collectShared(item, end, dynamic);
    if (operand.kind != Operand::Kind::symbol || sharedOffsets_.count(operand.name)) return;
    const auto found = symbols_.shared.find(operand.name);
    if (found == symbols_.shared.end()) return;
    const Variable& variable = *found->second;
    if (variable.dynamic) {
      sharedOffsets_[variable.name] = 0;
      dynamic.push_back(&variable);
      return;
    }
    end = alignUp(end, variable.align);
    sharedOffsets_[variable.name] = end;
    end += variable.bytes;
  }

  // -- instructions
  // -------------------------------------------------------------------------------------------------
  void decode(const Statement& statement) {
    Decoder decoder(*this, statement);
    if (!decodeClock(decoder) && !decodeForm(decoder) && !decodeControl(decoder) && !decodeCarry(decoder) &&
        !decodeLop3(decoder) && !decodeMove(decoder) && !decodeCompare(decoder) && !decodeConvert(decoder) &&
        !decodeMemory(decoder) && !decodeAtomic(decoder) && !decodeWarp(decoder) && !decodeBarrier(decoder) &&
        !decodeMatrix(decoder) && !decodeWmma(decoder) && !decodeAsyncCopy(decoder) &&
        !decodeMBarrier(decoder) && !decodeTensorCopy(decoder) && !decodeWgmma(decoder) &&
        !decodeSystem(decoder)) {
      decoder.unsupported();
    }
    DecodedInst decoded;
    decoded.inst = decoder.inst;
    decoded.firstOperand = static_cast<uint32_t>(operands.size());
    operands.insert(operands.end(), decoder.rows().begin(), decoder.rows().end());
    if (statement.predicate >= 0) {
      decoded.predicateRow = registerRow(statement.predicate);
      decoded.inst.predicateNegated = statement.predicateNegated;
    }
    decoded.inst.index = static_cast<uint32_t>(decoded_.size());
    if (statement.target >= 0)
      decoded.targets = {statement.target};
    else
      decoded.targets = statement.targets;
    decoded_.push_back(std::move(decoded));
  }

  static bool decodeForm(Decoder& decoder) {
    const Form* form = FormTable::instance().find(decoder.opcode());
    if (!form) return false;
    if (decoder.operandCount() != form->destinations.size() + form->sources.size()) return false;
    // Forms with two destinations or packed values are decoded by their family.
    if (decoder.operand(0).kind != Operand::Kind::reg && decoder.operand(0).kind != Operand::Kind::sink)
      return false;
    if (decoder.operand(1).kind == Operand::Kind::vector) return false;
    size_t next = 0;
    for (OperandType type : form->destinations) decoder.destination(decoder.operand(next++), type);
    for (OperandType type : form->sources) decoder.source(decoder.operand(next++), type);
    decoder.inst.execute = form->execute;
    decoder.inst.propagate = form->propagate;
    decoder.inst.category = form->category;
    return true;
  }

  static bool decodeControl(Decoder& decoder) {
    const std::string& opcode = decoder.opcode();
    decoder.inst.category = Category::control;
    if (opcode == "bra" || opcode == "bra.uni") {
      decoder.inst.kind = Kind::branch;
    } else if (decoder.base() == "brx") {
      decoder.inst.kind = Kind::branchTable;
      decoder.source(decoder.operand(0), OperandType::bits32);
    } else if (decoder.base() == "ret" || opcode == "exit") {
      decoder.inst.kind = Kind::exit;
    } else {
      decoder.inst.category = Category::other;
      return false;
    }
    return true;
  }

  // -- rows
  // ---------------------------------------------------------------------------------------------------------
  bool isRegisterRow(uint32_t row) const { return row < registers_; }

  FlowInst flowOf(const DecodedInst& decoded, size_t index) const {
    FlowInst flow;
    const uint32_t* rowIndex = operands.data() + decoded.firstOperand;
    const Inst& inst = decoded.inst;
    const bool predicated = decoded.predicateRow != kNone;
    if (predicated) flow.uses.push_back(decoded.predicateRow);
    for (int i = 0; i < inst.destinations + inst.sources; i++) {
      if (!isRegisterRow(rowIndex[i])) continue;
      if (i >= inst.destinations || predicated) flow.uses.push_back(rowIndex[i]);
      if (i < inst.destinations) flow.kills.push_back(rowIndex[i]);
    }
    flow.keepsRows = inst.writesLater;
    const bool leaves = !predicated && (inst.kind == Kind::exit || inst.kind == Kind::branch);
    if (!leaves && inst.kind != Kind::branchTable) flow.successors.push_back(static_cast<int>(index) + 1);
    flow.successors.insert(flow.successors.end(), decoded.targets.begin(), decoded.targets.end());
    return flow;
  }

  void allocate() {
    std::vector<FlowInst> flow;
    for (size_t i = 0; i < decoded_.size(); i++) flow.push_back(flowOf(decoded_[i], i));
    std::vector<uint8_t> sizes;
    for (size_t i = 0; i < registers_; i++) sizes.push_back(rows[i].bytes);
    const RowAllocation allocation = allocateRows(flow, sizes);
    rowOffsets_ = allocation.offsets;
    kernel_->registers = allocation.peakWords;
    for (uint32_t reg : allocation.aliveAtEntry) {
      if (reg != carryRow) program_->undefinedAtEntry.push_back(rowOffsets_[reg]);
    }
    uint32_t end = allocation.bytes;
    for (size_t i = registers_; i < rows.size(); i++) {
      rowOffsets_.push_back(end);
      const RowPlan& row = rows[i];
      if (row.kind == RowPlan::Kind::constant)
        program_->constants.push_back({end, row.bytes, row.bits});
      else
        program_->specials.push_back({end, row.bytes, static_cast<Special>(row.bits)});
      end += rowBytesFor(row.bytes);
    }
    program_->rowBytes = end;
  }

  void finish() {
    for (uint32_t row : operands) program_->operands.push_back(rowOffsets_[row]);
    for (size_t i = 0; i < decoded_.size(); i++) {
      DecodedInst& decoded = decoded_[i];
      Inst inst = decoded.inst;
      inst.op = program_->operands.data() + decoded.firstOperand;
      if (decoded.predicateRow != kNone) inst.predicate = rowOffsets_[decoded.predicateRow];
      if (inst.kind == Kind::branchTable) {
        inst.target = static_cast<int32_t>(program_->branchTables.size());
        program_->branchTables.emplace_back(decoded.targets.begin(), decoded.targets.end());
      } else if (!decoded.targets.empty()) {
        inst.target = decoded.targets[0];
      }
      const bool mayBeShared = inst.space == Space::shared || inst.space == Space::generic;
      if (inst.elementBytes && mayBeShared) {
        program_->sharedGranule = std::min<uint32_t>(program_->sharedGranule, inst.elementBytes);
      }
      program_->code.push_back(inst);
      const Statement& statement = flat_.statements[i];
      program_->opcodes.push_back(statement.opcode);
      program_->positions.push_back({statement.ptxLine, statement.source.file, statement.source.line});
    }
    kernel_->program = program_;
  }

  const ModuleSymbols& symbols_;
  const Function& entry_;
  FlatKernel flat_;
  std::unique_ptr<Kernel> kernel_;
  std::shared_ptr<Program> program_;
  std::vector<uint64_t> offsets_;
  std::map<std::string, uint64_t> sharedOffsets_;
  std::vector<DecodedInst> decoded_;
  size_t registers_ = 0;
  std::vector<uint32_t> rowOffsets_;
};

}  // namespace

std::unique_ptr<Kernel> lowerKernel(const ModuleSymbols& symbols, const Function& entry) {
  return KernelLowering(symbols, entry).run();
}

}  // namespace ptxemu
