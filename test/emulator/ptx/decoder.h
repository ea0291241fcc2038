// Turns a parsed instruction into a decoded one. Each family of instructions has a decode function of its
// own; plain element-wise forms are looked up by their full spelling in one table.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "machine.h"
#include "syntax.h"

namespace ptxemu {

// What an operand slot of an element-wise form holds; float types differ in how immediates are written.
enum class OperandType : uint8_t { predicate, bits16, bits32, bits64, float32, float64, bits128 };
uint8_t bytesOf(OperandType type);  // 0 for predicates
OperandType bitsType(int bytes);

// The rows a kernel needs while it is decoded: one per register, distinct constant and special register.
struct RowPlan {
  enum class Kind : uint8_t { reg, constant, special };
  Kind kind = Kind::reg;
  uint8_t bytes = 0;  // 0 for predicates
  uint64_t bits = 0;  // constants; Special
};

struct DecodedInst {
  Inst inst;
  uint32_t firstOperand = 0;
  uint32_t predicateRow = kNone;  // index into rows
  std::vector<int> targets;
};

// What decoding needs to know of the kernel around an instruction.
class DecodeContext {
 public:
  std::vector<RowPlan> rows;
  std::vector<uint32_t> operands;  // row indices, patched to offsets once rows are allocated
  uint32_t carryRow = kNone;

  uint32_t constantRow(uint64_t bits, uint8_t bytes);
  uint32_t specialRow(Special which, uint8_t bytes);
  uint32_t scratchRow(uint8_t bytes);                                         // where `_` goes
  uint32_t registerRow(int reg) const { return static_cast<uint32_t>(reg); }  // registers come first

  struct Place {
    Space space;
    uint64_t address;  // offset in its space, or the address of a global
  };
  virtual ~DecodeContext() = default;
  virtual Place placeOf(const Operand& operand, int ptxLine) = 0;  // of a symbol or variable

 private:
  std::map<std::pair<uint64_t, uint8_t>, uint32_t> constants_;
  std::map<std::pair<int, uint8_t>, uint32_t> specials_;
};

class Decoder {
 public:
  Decoder(DecodeContext& context, const Statement& statement);

  const Statement& statement;
  Inst inst;

  const std::string& opcode() const { return statement.opcode; }
  const std::string& base() const { return base_; }
  bool startsWith(const char* prefix) const;

  // Modifiers are the dotted parts after the base; each must be taken by someone.
  bool take(const std::string& modifier);
  std::string takeAny(std::initializer_list<const char*> choices);  // "" if none is there
  std::string takeType();  // the first remaining part, which must be a type
  const std::vector<std::string>& modifiers() const { return modifiers_; }
  void allTaken() const;  // throws "unsupported" if a modifier is left

  [[noreturn]] void unsupported(const std::string& why = "") const;

  size_t operandCount() const { return statement.operands.size(); }
  const Operand& operand(size_t index) const;
  bool isRegister(const Operand& operand) const { return operand.kind == Operand::Kind::reg; }
  int registerBytes(const Operand& operand) const;  // 0 for predicates, -1 when it is no register

  // Destinations must be added before sources. Both return the index in Inst::op.
  uint8_t destination(const Operand& operand, OperandType type);
  uint8_t source(const Operand& operand, OperandType type);
  uint8_t sourceRow(uint32_t row);
  uint8_t destinationRow(uint32_t row);
  // A row of any width, for instructions that allow wider registers than their type.
  uint8_t anyDestination(const Operand& operand, uint8_t bytes);
  uint8_t anySource(const Operand& operand, OperandType type);
  uint8_t rowBytes(uint8_t op) const;  // of an operand added above
  // Address operands set space-relative constants and Inst::address; returns the resolved space.
  void address(const Operand& operand, Space space);
  int64_t constantOf(const Operand& operand) const;  // an immediate

  DecodeContext& context() { return context_; }
  const std::vector<uint32_t>& rows() const { return rows_; }

 private:
  void add(uint32_t row);
  uint32_t immediateRow(const Operand& operand, OperandType type);
  uint32_t symbolRow(const Operand& operand, OperandType type);

  DecodeContext& context_;
  std::string base_;
  std::vector<std::string> modifiers_;
  std::vector<uint32_t> rows_;
};

// An element-wise form: how to run it and what its operands are.
struct Form {
  Execute execute = nullptr;
  Propagate propagate = nullptr;
  Category category = Category::integer;
  std::vector<OperandType> destinations, sources;
};

class FormTable {
 public:
  void add(const std::string& spelling, Category category, Form form);
  const Form* find(const std::string& spelling) const;
  const std::unordered_map<std::string, Form>& all() const { return forms_; }
  static const FormTable& instance();

 private:
  std::unordered_map<std::string, Form> forms_;
};

void addIntegerForms(FormTable& table);
void addBitForms(FormTable& table);
void addFloatForms(FormTable& table);
void addDoubleForms(FormTable& table);
void addHalfForms(FormTable& table);
void addCompareForms(FormTable& table);
void addMoveForms(FormTable& table);

// Families whose modifiers combine. Each returns false when the instruction is not its own and throws when it
// is but in a form that is not supported.
bool decodeCarry(Decoder& decoder);
bool decodeLop3(Decoder& decoder);
bool decodeMove(Decoder& decoder);
bool decodeClock(Decoder& decoder);  // before the plain form of mov
bool decodeCompare(Decoder& decoder);
bool decodeConvert(Decoder& decoder);
bool decodeMemory(Decoder& decoder);
bool decodeAtomic(Decoder& decoder);
bool decodeWarp(Decoder& decoder);
bool decodeBarrier(Decoder& decoder);
bool decodeMatrix(Decoder& decoder);
bool decodeWmma(Decoder& decoder);
bool decodeAsyncCopy(Decoder& decoder);
bool decodeSystem(Decoder& decoder);
bool decodeMBarrier(Decoder& decoder);
bool decodeTensorCopy(Decoder& decoder);
bool decodeWgmma(Decoder& decoder);

Special specialByName(const std::string& name);

// Spellings of the families above, for supportedForms().
void listFamilies(std::vector<std::string>& names);

}  // namespace ptxemu
