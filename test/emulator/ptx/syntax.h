// The parsed form of a PTX module, before anything is decoded: names of registers, variables and labels are
// resolved to indices of their function, everything else is as written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ptxemu {

enum class Space : uint8_t { global, constant, shared, local, param, generic };

struct Operand {
  enum class Kind : uint8_t {
    reg,        // index
    immediate,  // bits, literal
    symbol,     // name: special register, module variable, function or label; + offset
    variable,   // index into Function::variables; + offset
    address,    // [items[0] + offset], with coordinates in items[1] for tensor copies
    vector,     // {items}
    pair,       // items[0] | items[1]
    list,       // (items)
    sink        // _
  };
  enum class Literal : uint8_t { integer, float32, float64, decimal };

  Kind kind = Kind::sink;
  Literal literal = Literal::integer;
  bool negated = false;  // !p
  int index = -1;
  uint64_t bits = 0;
  int64_t offset = 0;
  std::string name;
  std::vector<Operand> items;
};

struct Relocation {
  uint64_t offset = 0;
  std::string symbol;
  int64_t addend = 0;
};

struct Variable {
  std::string name;
  Space space = Space::global;
  uint32_t align = 1;
  uint64_t bytes = 0;
  bool dynamic = false;  // extern __shared__ x[]
  bool external = false;
  std::vector<uint8_t> initial;
  std::vector<Relocation> relocations;
};

struct SourceLine {
  int file = 0, line = 0;
};

struct Statement {
  std::string opcode;
  int predicate = -1;
  bool predicateNegated = false;
  std::vector<Operand> operands;
  int ptxLine = 0;
  SourceLine source;
  int target = -1;           // bra: index of the statement to go to
  std::vector<int> targets;  // brx.idx
};

struct Register {
  std::string name;
  uint8_t bytes = 0;  // 0 for predicates
};

struct Function {
  std::string name;
  bool isEntry = false, isDefined = false;
  std::vector<int> parameters, results;  // indices into variables
  std::vector<Register> registers;
  std::vector<Variable> variables;
  std::vector<Statement> statements;
  uint32_t maxThreads = 0;
  int ptxLine = 0;
};

struct SyntaxTree {
  int smVersion = 0;
  std::map<int, std::string> files;
  std::vector<Variable> variables;
  std::map<std::string, Function> functions;
};

SyntaxTree parsePtx(const std::string& text);

// Bytes of a PTX type name without its dot ("f32", "bf16x2"); 0 for "pred", -1 if it is none.
int typeBytes(const std::string& type);

}  // namespace ptxemu
