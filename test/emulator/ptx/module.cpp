#include <cstring>

#include "engine.h"
#include "lowering.h"
#include "memory_state.h"

namespace ptxemu {

ParseError::ParseError(int ptxLine, const std::string& what)
    : std::runtime_error("PTX line " + std::to_string(ptxLine) + ": " + what), ptxLine_(ptxLine) {}

struct Module::State {
  SyntaxTree tree;
  ModuleSymbols symbols;
  Memory* memory = nullptr;
  std::map<std::string, std::unique_ptr<Kernel>> kernels;
  std::map<std::string, Memory::Allocation> globals;
};

Module::Module() : state_(std::make_unique<State>()) {}

Module::~Module() {
  for (const auto& [name, allocation] : state_->globals) state_->memory->free(allocation.address);
}

namespace {

// Functions whose address is taken get one: by an initialiser, or as an operand other than the callee.
void collectFunctionAddresses(const SyntaxTree& tree, std::map<std::string, uint64_t>& addresses) {
  auto add = [&](const std::string& name) {
    const auto found = tree.functions.find(name);
    if (found == tree.functions.end() || addresses.count(name)) return;
    addresses[name] = kFunctionWindow + 16 * (addresses.size() + 1);
  };
  for (const Variable& variable : tree.variables) {
    for (const Relocation& relocation : variable.relocations) add(relocation.symbol);
  }
  for (const auto& [name, function] : tree.functions) {
    for (const Statement& statement : function.statements) {
      if (statement.opcode.compare(0, 3, "mov") != 0) continue;
      for (const Operand& operand : statement.operands) {
        if (operand.kind == Operand::Kind::symbol) add(operand.name);
      }
    }
  }
}

}  // namespace

std::unique_ptr<Module> Module::parse(const std::string& ptx, Memory& memory) {
  std::unique_ptr<Module> module(new Module());
  State& state = *module->state_;
  state.memory = &memory;
  state.tree = parsePtx(ptx);
  state.symbols.tree = &state.tree;
  collectFunctionAddresses(state.tree, state.symbols.functions);
  for (const Variable& variable : state.tree.variables) {
    if (variable.space == Space::shared) {
      state.symbols.shared[variable.name] = &variable;
      continue;
    }
    // Variables without a value start as zeros, as the CUDA runtime leaves them.
    const size_t bytes = std::max<size_t>(variable.bytes, 1);
    const uint64_t address = memory.state().allocate(bytes, true, false);
    if (!address) throw ParseError(0, "no memory for '" + variable.name + "'");
    std::memset(reinterpret_cast<void*>(address), 0, bytes);
    std::memcpy(reinterpret_cast<void*>(address), variable.initial.data(),
                std::min<size_t>(bytes, variable.initial.size()));
    state.globals[variable.name] = {address, bytes};
    state.symbols.globals[variable.name] = address;
  }
  for (const Variable& variable : state.tree.variables) {
    for (const Relocation& relocation : variable.relocations) {
      uint64_t value = 0;
      if (const auto global = state.symbols.globals.find(relocation.symbol);
          global != state.symbols.globals.end()) {
        value = global->second;
      } else if (const auto function = state.symbols.functions.find(relocation.symbol);
                 function != state.symbols.functions.end()) {
        value = function->second;
      } else {
        throw ParseError(0,
                         "initialiser of '" + variable.name + "' names unknown '" + relocation.symbol + "'");
      }
      value += static_cast<uint64_t>(relocation.addend);
      std::memcpy(reinterpret_cast<void*>(state.symbols.globals.at(variable.name) + relocation.offset),
                  &value, 8);
    }
  }
  for (const auto& [name, function] : state.tree.functions) {
    if (function.isEntry && function.isDefined) state.kernels[name] = lowerKernel(state.symbols, function);
  }
  return module;
}

const Kernel* Module::kernel(const std::string& name) const {
  const auto found = state_->kernels.find(name);
  return found == state_->kernels.end() ? nullptr : found->second.get();
}

std::vector<const Kernel*> Module::kernels() const {
  std::vector<const Kernel*> all;
  for (const auto& [name, kernel] : state_->kernels) all.push_back(kernel.get());
  return all;
}

const Memory::Allocation* Module::global(const std::string& name) const {
  const auto found = state_->globals.find(name);
  return found == state_->globals.end() ? nullptr : &found->second;
}

int Module::smVersion() const { return state_->tree.smVersion; }

}  // namespace ptxemu
