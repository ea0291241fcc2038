// Recursive descent over the tokens of a PTX module. Scopes nest: CUB and inline assembly declare registers,
// labels and variables inside braces, often with the same names many times over in one function.
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "engine.h"
#include "lexer.h"
#include "syntax.h"

namespace ptxemu {

int typeBytes(const std::string& type) {
  static const std::unordered_map<std::string, int> sizes = {
      {"pred", 0}, {"b8", 1},    {"u8", 1},     {"s8", 1},     {"b16", 2},   {"u16", 2},   {"s16", 2},
      {"f16", 2},  {"bf16", 2},  {"e4m3x2", 2}, {"e5m2x2", 2}, {"b32", 4},   {"u32", 4},   {"s32", 4},
      {"f32", 4},  {"f16x2", 4}, {"bf16x2", 4}, {"tf32", 4},   {"u16x2", 4}, {"s16x2", 4}, {"b64", 8},
      {"u64", 8},  {"s64", 8},   {"f64", 8},    {"b128", 16}};
  const auto found = sizes.find(type);
  return found == sizes.end() ? -1 : found->second;
}

namespace {

struct Scope {
  int parent = -1;
  std::unordered_map<std::string, int> registers, variables, labels;
};

class Parser {
 public:
  explicit Parser(const std::string& text) : tokens_(tokenize(text)) {}

  SyntaxTree run() {
    while (peek().kind != Token::Kind::end) moduleItem();
    return std::move(tree_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw ParseError(peek().line, what); }
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  Token take() {
    Token token = peek();
    if (position_ + 1 < tokens_.size()) position_++;
    return token;
  }
  bool accept(const char* what) {
    if (!peek().is(what)) return false;
    take();
    return true;
  }
  void expect(const char* what) {
    if (!accept(what)) fail("expected '" + std::string(what) + "' before '" + peek().value + "'");
  }
  void skipLine(int line) {
    while (peek().line == line && peek().kind != Token::Kind::end) take();
  }
  void skipBraces() {
    expect("{");
    for (int depth = 1; depth > 0;) {
      const Token token = take();
      if (token.kind == Token::Kind::end) fail("'}' is missing");
      depth += token.is("{") ? 1 : token.is("}") ? -1 : 0;
    }
  }

  // -- numbers
  // ------------------------------------------------------------------------------------------------------
  Operand number() {
    Operand operand;
    operand.kind = Operand::Kind::immediate;
    const bool negative = accept("-");
    if (!negative) accept("+");
    const Token token = take();
    if (token.kind != Token::Kind::number) fail("expected a number before '" + token.value + "'");
    const std::string& digits = token.value;
    const char base = digits.size() > 1 && digits[0] == '0' ? digits[1] : '\0';
    if (base == 'f' || base == 'F' || base == 'd' || base == 'D') {
      const bool isDouble = base == 'd' || base == 'D';
      operand.literal = isDouble ? Operand::Literal::float64 : Operand::Literal::float32;
      operand.bits = std::strtoull(digits.c_str() + 2, nullptr, 16);
      if (negative) operand.bits ^= isDouble ? 1ull << 63 : 1ull << 31;
    } else if (digits.find('.') != std::string::npos) {
      operand.literal = Operand::Literal::decimal;
      const double value = std::strtod(digits.c_str(), nullptr) * (negative ? -1 : 1);
      std::memcpy(&operand.bits, &value, 8);
    } else {
      operand.bits = base == 'b' ? std::strtoull(digits.c_str() + 2, nullptr, 2)
                                 : std::strtoull(digits.c_str(), nullptr, 0);
      if (negative) operand.bits = 0 - operand.bits;
    }
    return operand;
  }
  int64_t integer() { return static_cast<int64_t>(number().bits); }

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
      for (Variable& variable : variables(space)) tree_.variables.push_back(std::move(variable));
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

  // ".align 4 .b8 name[16][2] = {...}, other ;" after the state space.
  std::vector<Variable> variables(Space space) {
    std::vector<Variable> found;
    uint32_t align = 0;
    std::string type;
    for (;;) {
      if (accept(".align"))
        align = static_cast<uint32_t>(integer());
      else if (accept(".attribute")) {
        while (!accept(")")) take();
      } else if (peek().is(".ptr") || peek().is(".global") || peek().is(".shared") || peek().is(".local") ||
                 peek().is(".const"))
        take();
      else if (peek().value == ".v2" || peek().value == ".v4")
        fail("variables of vector type are not supported");
      else if (peek().value[0] == '.')
        type = take().value.substr(1);
      else
        break;
    }
    const int bytes = typeBytes(type);
    if (bytes <= 0) fail("'" + type + "' is not a type of a variable");
    do {
      Variable variable;
      variable.space = space;
      variable.external = external_;
      variable.align = align ? align : static_cast<uint32_t>(bytes);
      variable.name = take().value;
      variable.bytes = static_cast<uint64_t>(bytes);
      while (accept("[")) {
        if (accept("]")) {
          variable.dynamic = true;
          variable.bytes = 0;
          continue;
        }
        variable.bytes *= static_cast<uint64_t>(integer());
        expect("]");
      }
      if (accept("=")) {
        initializer(variable, static_cast<size_t>(bytes), type);
        if (variable.initial.size() > variable.bytes) variable.bytes = variable.initial.size();
        if (variable.dynamic) variable.dynamic = false;
      }
      found.push_back(std::move(variable));
    } while (accept(","));
    // Parameters end with ',' or ')' of their list, all others with ';'.
    if (space != Space::param) expect(";");
    return found;
  }

  void initializer(Variable& variable, size_t bytes, const std::string& type) {
    if (accept("{")) {
      if (accept("}")) return;
      do initializer(variable, bytes, type);
      while (accept(","));
      expect("}");
      return;
    }
    uint64_t bits = 0;
    if (peek().kind == Token::Kind::word) {
      std::string symbol = take().value;
      if (symbol == "generic") {
        expect("(");
        symbol = take().value;
        expect(")");
      }
      int64_t addend = 0;
      if (peek().is("+") || peek().is("-")) addend = integer();
      variable.relocations.push_back({variable.initial.size(), symbol, addend});
    } else {
      const Operand value = number();
      bits = value.bits;
      if (value.literal == Operand::Literal::decimal && type == "f32") {
        double wide;
        std::memcpy(&wide, &bits, 8);
        const float narrow = static_cast<float>(wide);
        uint32_t narrowBits;
        std::memcpy(&narrowBits, &narrow, 4);
        bits = narrowBits;
      }
    }
    const size_t at = variable.initial.size();
    variable.initial.resize(at + bytes);
    std::memcpy(&variable.initial[at], &bits, std::min<size_t>(bytes, 8));
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
      for (Variable& variable : variables(space)) declare(std::move(variable));
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

  std::vector<Token> tokens_;
  size_t position_ = 0;
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
