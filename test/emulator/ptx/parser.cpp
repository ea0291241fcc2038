// Recursive descent over the tokens of a PTX module. Scopes nest: CUB and inline assembly declare registers,
// labels and variables inside braces, often with the same names many times over in one function.
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "declarations.h"

namespace ptxemu {

namespace {

struct Scope {
  int parent = -1;
  std::unordered_map<std::string, int> registers, variables, labels;
};

class Parser : private TokenStream {
 public:
  explicit Parser(const std::string& text) : TokenStream(text) {}

  SyntaxTree run() {
    while (peek().kind != Token::Kind::end) moduleItem();
    return std::move(tree_);
  }

 private:
  // -- module level
  // -------------------------------------------------------------------------------------------------
  void moduleItem() {
    const Token token = take();
    const int line = token.line;
    if (token.is(".target")) {
      const std::string target = peek().value;
      if (target.compare(0, 3, "sm_") == 0) tree_.smVersion = std::atoi(target.c_str() + 3);
      skipLine(line);
    } else if (token.is(".version") || token.is(".address_size")) {
      skipLine(line);
    } else if (token.is(".file")) {
      fileDirective(line);
    } else if (token.is(".section")) {
      take();
      skipBraces();
    } else if (token.is(".pragma") || token.is(".alias")) {
      while (!accept(";")) take();
    } else if (token.is(".visible") || token.is(".weak") || token.is(".common")) {
    } else if (token.is(".extern")) {
      external_ = true;
    } else if (token.is(".entry") || token.is(".func")) {
      function(token.is(".entry"));
      external_ = false;
    } else if (token.is(".global") || token.is(".const") || token.is(".shared")) {
      const Space space = token.is(".global")  ? Space::global
                          : token.is(".const") ? Space::constant
                                               : Space::shared;
      for (Variable& variable : parseVariables(*this, space, external_)) tree_.variables.push_back(std::move(variable));
      external_ = false;
    } else if (!token.is(";")) {
      throw ParseError(line, "unexpected '" + token.value + "' at module level");
    }
  }

  void fileDirective(int line) {
    const int index = static_cast<int>(integer());
    tree_.files[index] = take().value;
    skipLine(line);
  }

  // -- functions
  // ----------------------------------------------------------------------------------------------------
  std::vector<int> parameterList() {
    std::vector<int> indices;
    expect("(");
    while (!accept(")")) {
      if (!accept(".param")) fail("parameters must be in .param space, not '" + peek().value + "'");
      // A list of parameters uses ',' between declarations, so each is parsed alone.
      Variable parameter;
      uint32_t align = 0;
      std::string type;
      while (peek().value[0] == '.') {
        if (accept(".align"))
          align = static_cast<uint32_t>(integer());
        else if (peek().is(".ptr") || peek().is(".global") || peek().is(".shared") || peek().is(".local") ||
                 peek().is(".const"))
          take();
        else
          type = take().value.substr(1);
      }
      const int bytes = typeBytes(type);
      if (bytes <= 0) fail("'" + type + "' is not a type of a parameter");
      parameter.name = take().value;
      parameter.space = Space::param;
      parameter.bytes = static_cast<uint64_t>(bytes);
      parameter.align = align ? align : static_cast<uint32_t>(bytes);
      while (accept("[")) {
        if (accept("]")) continue;
        parameter.bytes *= static_cast<uint64_t>(integer());
        expect("]");
      }
      indices.push_back(declare(std::move(parameter)));
      accept(",");
    }
    return indices;
  }

  int declare(Variable variable) {
    const int index = static_cast<int>(function_.variables.size());
    scopes_[scope_].variables[variable.name] = index;
    function_.variables.push_back(std::move(variable));
    return index;
  }

  void function(bool isEntry) {
    function_ = Function();
    function_.isEntry = isEntry;
    function_.ptxLine = peek().line;
    scopes_.assign(1, Scope());
    scope_ = 0;
    pending_.clear();
    branchTables_.clear();
    source_ = SourceLine();
    if (peek().is("(")) function_.results = parameterList();
    function_.name = take().value;
    if (peek().is("(")) function_.parameters = parameterList();
    while (!peek().is("{") && !peek().is(";")) functionAttribute();
    if (!accept(";")) {
      function_.isDefined = true;
      body();
      resolveBranches();
    }
    Function& stored = tree_.functions[function_.name];
    if (!stored.isDefined) stored = std::move(function_);
  }

  void functionAttribute() {
    const Token token = take();
    if (token.kind == Token::Kind::end) fail("function without a body");
    if (token.is(".maxntid") || token.is(".reqntid")) {
      uint32_t product = static_cast<uint32_t>(integer());
      while (accept(",")) product *= static_cast<uint32_t>(integer());
      function_.maxThreads = product;
    }
  }

  void body() {
    expect("{");
    const int outer = scope_;
    scope_ = static_cast<int>(scopes_.size());
    scopes_.push_back(Scope());
    scopes_[scope_].parent = outer;
    while (!accept("}")) bodyItem();
    scope_ = outer;
  }

  void bodyItem() {
    const Token& token = peek();
    if (token.kind == Token::Kind::end) fail("'}' is missing at the end of " + function_.name);
    const int line = token.line;
    if (token.is("{")) return body();
    if (accept(";")) return;
    if (accept(".reg")) return registers();
    if (accept(".loc")) {
      source_.file = static_cast<int>(integer());
      source_.line = static_cast<int>(integer());
      return skipLine(line);
    }
    if (accept(".file")) return fileDirective(line);
    if (token.is(".local") || token.is(".shared") || token.is(".param")) {
      const std::string name = take().value;
      const Space space = name == ".local" ? Space::local : name == ".shared" ? Space::shared : Space::param;
      for (Variable& variable : parseVariables(*this, space, external_)) declare(std::move(variable));
      if (space == Space::param) expect(";");
      return;
    }
    if (accept(".pragma")) {
      while (!accept(";")) take();
      return;
    }
    if (token.kind == Token::Kind::word && peek(1).is(":")) return label();
    if (token.value[0] == '.') fail("directive '" + token.value + "' is not supported");
    statement();
  }

  void registers() {
    const std::string type = take().value;
    const int bytes = typeBytes(type.substr(1));
    if (bytes < 0) fail("'" + type + "' is not a register type");
    auto add = [&](const std::string& name) {
      scopes_[scope_].registers[name] = static_cast<int>(function_.registers.size());
      // 8-bit registers exist for loads, stores and conversions only; a 16-bit row holds them.
      function_.registers.push_back({name, static_cast<uint8_t>(bytes == 1 ? 2 : bytes)});
    };
    do {
      const std::string name = take().value;
      if (accept("<")) {
        const int64_t count = integer();
        expect(">");
        for (int64_t i = 0; i < count; i++) add(name + std::to_string(i));
      } else {
        add(name);
      }
    } while (accept(","));
    expect(";");
  }

  void label() {
    const std::string name = take().value;
    expect(":");
    if (accept(".branchtargets")) {
      std::vector<std::string> names;
      do names.push_back(take().value);
      while (accept(","));
      expect(";");
      branchTables_[name] = std::move(names);
    } else if (peek().is(".callprototype") || peek().is(".calltargets")) {
      while (!accept(";")) take();
    } else {
      scopes_[scope_].labels[name] = static_cast<int>(function_.statements.size());
    }
  }

  // -- instructions
  // -------------------------------------------------------------------------------------------------
  template <class Find>
  int lookup(Find find) const {
    for (int scope = scope_; scope >= 0; scope = scopes_[scope].parent) {
      const int index = find(scopes_[scope]);
      if (index >= 0) return index;
    }
    return -1;
  }
  static int indexIn(const std::unordered_map<std::string, int>& names, const std::string& name) {
    const auto found = names.find(name);
    return found == names.end() ? -1 : found->second;
  }
  int findRegister(const std::string& name) const {
    return lookup([&](const Scope& scope) { return indexIn(scope.registers, name); });
  }

  void statement() {
    Statement statement;
    statement.ptxLine = peek().line;
    statement.source = source_;
    if (accept("@")) {
      statement.predicateNegated = accept("!");
      const std::string name = take().value;
      statement.predicate = findRegister(name);
      if (statement.predicate < 0) fail("'" + name + "' is not a predicate register");
    }
    const Token opcode = take();
    if (opcode.kind != Token::Kind::word) fail("expected an instruction before '" + opcode.value + "'");
    statement.opcode = opcode.value;
    const bool isBranch = opcode.value == "bra" || opcode.value == "bra.uni";
    const bool isTable = opcode.value.compare(0, 7, "brx.idx") == 0;
    while (!accept(";")) {
      if (!statement.operands.empty()) accept(",");
      statement.operands.push_back(operand());
    }
    if (isBranch || isTable) {
      pending_.push_back({static_cast<int>(function_.statements.size()), scope_, isTable});
    }
    function_.statements.push_back(std::move(statement));
  }

  Operand operand() {
    Operand result = simpleOperand();
    if (accept("|")) {
      Operand pair;
      pair.kind = Operand::Kind::pair;
      pair.items = {std::move(result), simpleOperand()};
      return pair;
    }
    return result;
  }

  Operand simpleOperand() {
    Operand result;
    if (accept("[")) {
      result.kind = Operand::Kind::address;
      result.items.push_back(simpleOperand());
      std::swap(result.offset, result.items[0].offset);
      if (accept(",")) result.items.push_back(simpleOperand());
      expect("]");
      return result;
    }
    if (peek().is("{") || peek().is("(")) {
      const bool isVector = take().is("{");
      result.kind = isVector ? Operand::Kind::vector : Operand::Kind::list;
      const char* close = isVector ? "}" : ")";
      while (!accept(close)) {
        result.items.push_back(simpleOperand());
        accept(",");
      }
      return result;
    }
    if (accept("!")) {
      result = simpleOperand();
      result.negated = true;
      return result;
    }
    if (peek().kind != Token::Kind::word) return number();
    const std::string name = take().value;
    if (name == "_") return result;
    result.name = name;
    const int reg = findRegister(name);
    const int variable =
        reg >= 0 ? -1 : lookup([&](const Scope& scope) { return indexIn(scope.variables, name); });
    result.kind = reg >= 0        ? Operand::Kind::reg
                  : variable >= 0 ? Operand::Kind::variable
                                  : Operand::Kind::symbol;
    result.index = reg >= 0 ? reg : variable;
    while (peek().is("+") || (peek().is("-") && peek(1).kind == Token::Kind::number)) {
      if (peek().is("+")) take();
      result.offset += integer();
    }
    return result;
  }

  struct PendingBranch {
    int statement, scope;
    bool isTable;
  };

  int findLabel(int from, const std::string& name) const {
    for (int scope = from; scope >= 0; scope = scopes_[scope].parent) {
      const int index = indexIn(scopes_[scope].labels, name);
      if (index >= 0) return index;
    }
    return -1;
  }

  void resolveBranches() {
    for (const PendingBranch& branch : pending_) {
      Statement& statement = function_.statements[branch.statement];
      auto resolve = [&](const std::string& name) {
        const int index = findLabel(branch.scope, name);
        if (index < 0) throw ParseError(statement.ptxLine, "there is no label '" + name + "'");
        return index;
      };
      if (branch.isTable) {
        const auto table = branchTables_.find(statement.operands.at(1).name);
        if (table == branchTables_.end()) throw ParseError(statement.ptxLine, "brx.idx without its table");
        for (const std::string& name : table->second) statement.targets.push_back(resolve(name));
      } else {
        statement.target = resolve(statement.operands.at(0).name);
      }
    }
  }

  bool external_ = false;
  SyntaxTree tree_;
  Function function_;
  std::vector<Scope> scopes_;
  int scope_ = 0;
  SourceLine source_;
  std::vector<PendingBranch> pending_;
  std::unordered_map<std::string, std::vector<std::string>> branchTables_;
};

}  // namespace

SyntaxTree parsePtx(const std::string& text) { return Parser(text).run(); }

}  // namespace ptxemu
