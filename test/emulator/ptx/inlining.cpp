#include <algorithm>
#include <set>

#include "lowering.h"

namespace ptxemu {
namespace {

// Opcodes that exist only here; PTX opcodes don't begin with '$'.
constexpr const char* kPrintf = "$vprintf";
constexpr const char* kAssert = "$assertfail";

class Inliner {
 public:
  Inliner(const SyntaxTree& tree, const std::map<std::string, uint64_t>& addresses)
      : tree_(tree), addresses_(addresses) {}

  FlatKernel run(const Function& entry) {
    const std::vector<int> variables = addVariables(entry, {});
    for (int parameter : entry.parameters) flat_.parameters.push_back(variables[parameter]);
    expand(entry, variables);
    if (flat_.statements.empty() || flat_.statements.back().opcode != "ret") append("ret", entry.ptxLine);
    return std::move(flat_);
  }

 private:
  static constexpr size_t kMaxStatements = 2000000;

  // Gives the function's variables places in the kernel; those in `bound` already have one.
  std::vector<int> addVariables(const Function& function, const std::map<int, int>& bound) {
    std::vector<int> places;
    for (size_t i = 0; i < function.variables.size(); i++) {
      const auto found = bound.find(static_cast<int>(i));
      if (found != bound.end()) {
        places.push_back(found->second);
        continue;
      }
      const Variable& variable = function.variables[i];
      // A shared variable of a function exists once, however often the function is inlined.
      if (variable.space == Space::shared) {
        const auto [entry, isNew] = shared_.try_emplace({function.name, static_cast<int>(i)},
                                                        static_cast<int>(flat_.variables.size()));
        if (isNew) flat_.variables.push_back(variable);
        places.push_back(entry->second);
        continue;
      }
      places.push_back(static_cast<int>(flat_.variables.size()));
      flat_.variables.push_back(variable);
      // Arguments and results live in the caller's local memory.
      const bool isKernelParameter = function.isEntry && isParameter(function, static_cast<int>(i));
      if (variable.space == Space::param && !isKernelParameter) flat_.variables.back().space = Space::local;
    }
    return places;
  }

  static bool isParameter(const Function& function, int variable) {
    return std::find(function.parameters.begin(), function.parameters.end(), variable) !=
           function.parameters.end();
  }

  Statement& append(const std::string& opcode, int ptxLine) {
    if (flat_.statements.size() >= kMaxStatements)
      throw ParseError(ptxLine, "the kernel is too large once inlined");
    Statement statement;
    statement.opcode = opcode;
    statement.ptxLine = ptxLine;
    flat_.statements.push_back(std::move(statement));
    return flat_.statements.back();
  }

  static void remap(Operand& operand, int registerBase, const std::vector<int>& variables) {
    if (operand.kind == Operand::Kind::reg) operand.index += registerBase;
    if (operand.kind == Operand::Kind::variable) operand.index = variables[operand.index];
    for (Operand& item : operand.items) remap(item, registerBase, variables);
  }

  void expand(const Function& function, const std::vector<int>& variables) {
    if (std::count(stack_.begin(), stack_.end(), function.name)) {
      throw ParseError(function.ptxLine, "recursive function '" + function.name + "' is not supported");
    }
    stack_.push_back(function.name);
    const int registerBase = static_cast<int>(flat_.registerBytes.size());
    for (const Register& reg : function.registers) flat_.registerBytes.push_back(reg.bytes);

    std::vector<int> placeOf(function.statements.size() + 1);  // of each statement of this function
    std::vector<size_t> branches, returns;
    for (size_t i = 0; i < function.statements.size(); i++) {
      placeOf[i] = static_cast<int>(flat_.statements.size());
      const Statement& original = function.statements[i];
      if (flat_.statements.size() >= kMaxStatements) {
        throw ParseError(original.ptxLine, "the kernel is too large once inlined");
      }
      Statement statement = original;
      for (Operand& operand : statement.operands) remap(operand, registerBase, variables);
      if (statement.predicate >= 0) statement.predicate += registerBase;
      if (statement.opcode == "call" || statement.opcode == "call.uni") {
        call(statement);
        continue;
      }
      const bool isReturn = statement.opcode == "ret" || statement.opcode == "ret.uni";
      if (isReturn && !function.isEntry) {
        statement.opcode = "bra";
        returns.push_back(flat_.statements.size());
      } else if (statement.target >= 0 || !statement.targets.empty()) {
        branches.push_back(flat_.statements.size());
      }
      flat_.statements.push_back(std::move(statement));
    }
    const int end = static_cast<int>(flat_.statements.size());
    placeOf.back() = end;
    for (size_t index : branches) {
      Statement& branch = flat_.statements[index];
      if (branch.target >= 0) branch.target = placeOf[branch.target];
      for (int& target : branch.targets) target = placeOf[target];
    }
    for (size_t index : returns) flat_.statements[index].target = end;
    // A label at the very end needs something to point at.
    if (!function.isEntry || std::count(placeOf.begin(), placeOf.end(), end) > 1)
      append("$nop", function.ptxLine);
    stack_.pop_back();
  }

  // call (results), function, (arguments) [, prototype];  results and arguments may be missing.
  void call(const Statement& statement) {
    std::vector<Operand> lists[2];
    const Operand* callee = nullptr;
    for (const Operand& operand : statement.operands) {
      if (operand.kind == Operand::Kind::list)
        lists[callee ? 1 : 0] = operand.items;
      else if (!callee)
        callee = &operand;
    }
    if (!callee) throw ParseError(statement.ptxLine, "call without a function");
    // A predicated call jumps over its body.
    const size_t guard = flat_.statements.size();
    if (statement.predicate >= 0) {
      Statement& skip = append("bra", statement.ptxLine);
      skip.predicate = statement.predicate;
      skip.predicateNegated = !statement.predicateNegated;
    }
    if (callee->kind == Operand::Kind::reg)
      callThroughPointer(statement, *callee, lists[0], lists[1]);
    else
      callDirectly(statement, callee->name, lists[0], lists[1]);
    if (statement.predicate >= 0) {
      flat_.statements[guard].target = static_cast<int>(flat_.statements.size());
      append("$nop", statement.ptxLine);
    }
  }

  void callDirectly(const Statement& statement, const std::string& name, const std::vector<Operand>& results,
                    const std::vector<Operand>& arguments) {
    if (name == "vprintf" || name == "__assertfail") {
      Statement& special = append(name == "vprintf" ? kPrintf : kAssert, statement.ptxLine);
      special.source = statement.source;
      special.operands = arguments;
      special.operands.insert(special.operands.end(), results.begin(), results.end());
      return;
    }
    const auto found = tree_.functions.find(name);
    if (found == tree_.functions.end() || !found->second.isDefined) {
      throw ParseError(statement.ptxLine, "call of '" + name + "', which has no body");
    }
    const Function& function = found->second;
    std::map<int, int> bound;
    bind(statement, function.results, results, bound);
    bind(statement, function.parameters, arguments, bound);
    const std::vector<int> places = addVariables(function, bound);
    expand(function, places);
  }

  void bind(const Statement& statement, const std::vector<int>& formal, const std::vector<Operand>& actual,
            std::map<int, int>& bound) const {
    if (formal.size() != actual.size())
      throw ParseError(statement.ptxLine, "call with another number of arguments");
    for (size_t i = 0; i < formal.size(); i++) {
      if (actual[i].kind != Operand::Kind::variable) {
        throw ParseError(statement.ptxLine, "call with an argument that is no .param variable");
      }
      bound[formal[i]] = actual[i].index;
    }
  }

  bool signatureMatches(const Function& function, const std::vector<Operand>& results,
                        const std::vector<Operand>& arguments) const {
    auto match = [&](const std::vector<int>& formal, const std::vector<Operand>& actual) {
      if (formal.size() != actual.size()) return false;
      for (size_t i = 0; i < formal.size(); i++) {
        if (actual[i].kind != Operand::Kind::variable) return false;
        if (function.variables[formal[i]].bytes != flat_.variables[actual[i].index].bytes) return false;
      }
      return true;
    };
    return function.isDefined && match(function.results, results) && match(function.parameters, arguments);
  }

  void callThroughPointer(const Statement& statement, const Operand& pointer,
                          const std::vector<Operand>& results, const std::vector<Operand>& arguments) {
    std::vector<size_t> toEnd;
    for (const auto& [name, address] : addresses_) {
      const Function& function = tree_.functions.at(name);
      if (!signatureMatches(function, results, arguments)) continue;
      const int isThisOne = static_cast<int>(flat_.registerBytes.size());
      flat_.registerBytes.push_back(0);
      Operand predicate, value;
      predicate.kind = Operand::Kind::reg;
      predicate.index = isThisOne;
      value.kind = Operand::Kind::immediate;
      value.bits = address;
      append("setp.eq.u64", statement.ptxLine).operands = {predicate, pointer, value};
      const size_t next = flat_.statements.size();
      Statement& skip = append("bra", statement.ptxLine);
      skip.predicate = isThisOne;
      skip.predicateNegated = true;
      callDirectly(statement, name, results, arguments);
      toEnd.push_back(flat_.statements.size());
      append("bra", statement.ptxLine);
      flat_.statements[next].target = static_cast<int>(flat_.statements.size());
    }
    append("trap", statement.ptxLine).source = statement.source;
    for (size_t index : toEnd) flat_.statements[index].target = static_cast<int>(flat_.statements.size());
    append("$nop", statement.ptxLine);
  }

  const SyntaxTree& tree_;
  const std::map<std::string, uint64_t>& addresses_;
  FlatKernel flat_;
  std::vector<std::string> stack_;
  std::map<std::pair<std::string, int>, int> shared_;
};

}  // namespace

FlatKernel inlineCalls(const SyntaxTree& tree, const Function& entry,
                       const std::map<std::string, uint64_t>& functionAddresses) {
  return Inliner(tree, functionAddresses).run(entry);
}

}  // namespace ptxemu
