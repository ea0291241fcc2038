// From the syntax tree of a kernel to a program: calls are inlined, variables placed, instructions decoded,
// rows allocated.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "machine.h"
#include "syntax.h"

namespace ptxemu {

// A kernel with everything it calls as one function: indices count over the whole kernel.
struct FlatKernel {
  std::vector<uint8_t> registerBytes;
  std::vector<Variable> variables;
  std::vector<int> parameters;
  std::vector<Statement> statements;
};

// Inlines every call. A call through a pointer becomes a comparison with each function whose address the
// module takes. Recursion is an error: there is no stack.
FlatKernel inlineCalls(const SyntaxTree& tree, const Function& entry,
                       const std::map<std::string, uint64_t>& functionAddresses);

struct ModuleSymbols {
  const SyntaxTree* tree = nullptr;
  std::map<std::string, uint64_t> globals;    // addresses of .global and .const variables
  std::map<std::string, uint64_t> functions;  // addresses of functions whose address is taken
  std::map<std::string, const Variable*> shared;
};

std::unique_ptr<Kernel> lowerKernel(const ModuleSymbols& symbols, const Function& entry);

}  // namespace ptxemu
