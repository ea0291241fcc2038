#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

namespace ptxemu {

uint8_t bytesOf(OperandType type) {
  switch (type) {
    case OperandType::predicate:
      return 0;
    case OperandType::bits16:
      return 2;
    case OperandType::bits32:
    case OperandType::float32:
      return 4;
    case OperandType::bits64:
    case OperandType::float64:
      return 8;
    case OperandType::bits128:
      return 16;
  }
  return 0;
}

OperandType bitsType(int bytes) {
  switch (bytes) {
    case 0:
      return OperandType::predicate;
    case 1:
    case 2:
      return OperandType::bits16;
    case 4:
      return OperandType::bits32;
    case 8:
      return OperandType::bits64;
    default:
      return OperandType::bits128;
  }
}

// -- rows
// -----------------------------------------------------------------------------------------------------------

uint32_t DecodeContext::constantRow(uint64_t bits, uint8_t bytes) {
  if (bytes == 0)
    bits = bits ? ~0ull : 0;
  else if (bytes < 8)
    bits &= (1ull << bytes * 8) - 1;
  const auto [entry, isNew] = constants_.try_emplace({bits, bytes}, static_cast<uint32_t>(rows.size()));
  if (isNew) rows.push_back({RowPlan::Kind::constant, bytes, bits});
  return entry->second;
}

uint32_t DecodeContext::specialRow(Special which, uint8_t bytes) {
  const auto [entry, isNew] =
      specials_.try_emplace({static_cast<int>(which), bytes}, static_cast<uint32_t>(rows.size()));
  if (isNew) rows.push_back({RowPlan::Kind::special, bytes, static_cast<uint64_t>(which)});
  return entry->second;
}

uint32_t DecodeContext::scratchRow(uint8_t bytes) {
  // A row for each sink: two of one instruction may hold different values.
  rows.push_back({RowPlan::Kind::constant, bytes, 0});
  return static_cast<uint32_t>(rows.size()) - 1;
}

// -- modifiers
// ------------------------------------------------------------------------------------------------------

Decoder::Decoder(DecodeContext& context, const Statement& statement)
    : statement(statement), context_(context) {
  const std::string& text = statement.opcode;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    if (begin == 0)
      base_ = text.substr(0, end);
    else
      modifiers_.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

bool Decoder::startsWith(const char* prefix) const {
  return opcode().compare(0, std::strlen(prefix), prefix) == 0;
}

bool Decoder::take(const std::string& modifier) {
  const auto found = std::find(modifiers_.begin(), modifiers_.end(), modifier);
  if (found == modifiers_.end()) return false;
  modifiers_.erase(found);
  return true;
}

std::string Decoder::takeAny(std::initializer_list<const char*> choices) {
  for (const char* choice : choices) {
    if (take(choice)) return choice;
  }
  return "";
}

std::string Decoder::takeType() {
  if (modifiers_.empty() || typeBytes(modifiers_.front()) < 0) unsupported("a type is missing");
  const std::string type = modifiers_.front();
  modifiers_.erase(modifiers_.begin());
  return type;
}

void Decoder::allTaken() const {
  if (!modifiers_.empty()) unsupported("modifier ." + modifiers_.front());
}

void Decoder::unsupported(const std::string& why) const {
  throw ParseError(statement.ptxLine,
                   "unsupported instruction form '" + opcode() + "'" + (why.empty() ? "" : ": " + why));
}

// -- operands
// -------------------------------------------------------------------------------------------------------

const Operand& Decoder::operand(size_t index) const {
  if (index >= statement.operands.size()) unsupported("operand " + std::to_string(index + 1) + " is missing");
  return statement.operands[index];
}

int Decoder::registerBytes(const Operand& operand) const {
  return isRegister(operand) ? context_.rows[operand.index].bytes : -1;
}

void Decoder::add(uint32_t row) {
  rows_.push_back(row);
  // The widest wgmma: 128 accumulators twice, A, B and a predicate.
  if (rows_.size() > 264) unsupported("too many operands");
}

uint8_t Decoder::destinationRow(uint32_t row) {
  add(row);
  inst.destinations++;
  return static_cast<uint8_t>(rows_.size() - 1);
}

uint8_t Decoder::sourceRow(uint32_t row) {
  add(row);
  inst.sources++;
  return static_cast<uint8_t>(rows_.size() - 1);
}

uint8_t Decoder::rowBytes(uint8_t op) const { return context_.rows[rows_[op]].bytes; }

uint8_t Decoder::destination(const Operand& operand, OperandType type) {
  if (operand.kind == Operand::Kind::sink) return destinationRow(context_.scratchRow(bytesOf(type)));
  if (!isRegister(operand)) unsupported("a destination must be a register");
  if (registerBytes(operand) != bytesOf(type))
    unsupported("register '" + operand.name + "' has another size");
  return destinationRow(context_.registerRow(operand.index));
}

uint8_t Decoder::anyDestination(const Operand& operand, uint8_t bytes) {
  if (operand.kind == Operand::Kind::sink)
    return destinationRow(context_.scratchRow(std::max<uint8_t>(bytes, 2)));
  if (!isRegister(operand)) unsupported("a destination must be a register");
  if (registerBytes(operand) < bytes) unsupported("register '" + operand.name + "' is too small");
  return destinationRow(context_.registerRow(operand.index));
}

uint32_t Decoder::immediateRow(const Operand& operand, OperandType type) {
  uint64_t bits = operand.bits;
  if (operand.literal == Operand::Literal::decimal || operand.literal == Operand::Literal::float64) {
    if (type == OperandType::float32) {
      double wide;
      std::memcpy(&wide, &bits, 8);
      const float narrow = static_cast<float>(wide);
      uint32_t narrowBits;
      std::memcpy(&narrowBits, &narrow, 4);
      bits = narrowBits;
    }
  } else if (operand.literal == Operand::Literal::float32 && type == OperandType::float64) {
    float narrow;
    std::memcpy(&narrow, &bits, 4);
    const double wide = narrow;
    std::memcpy(&bits, &wide, 8);
  } else if (operand.literal == Operand::Literal::integer &&
             (type == OperandType::float32 || type == OperandType::float64) && bits != 0) {
    // "1" as an f32 operand is the number one.
    const double value = static_cast<double>(static_cast<int64_t>(bits));
    const float narrow = static_cast<float>(value);
    bits = 0;
    if (type == OperandType::float32)
      std::memcpy(&bits, &narrow, 4);
    else
      std::memcpy(&bits, &value, 8);
  }
  return context_.constantRow(bits, bytesOf(type));
}

uint32_t Decoder::symbolRow(const Operand& operand, OperandType type) {
  const uint8_t bytes = bytesOf(type);
  if (operand.kind == Operand::Kind::symbol) {
    const Special special = specialByName(operand.name);
    if (special != Special::none) return context_.specialRow(special, bytes);
    if (operand.name == "WARP_SZ") return context_.constantRow(kLanes, bytes);
  }
  const DecodeContext::Place place = context_.placeOf(operand, statement.ptxLine);
  uint64_t address = place.address + static_cast<uint64_t>(operand.offset);
  // The address of a parameter is taken to be read through ld.param or cvta.param: both know the windows.
  if (operand.kind == Operand::Kind::variable && place.space == Space::param) address |= kParamWindow;
  return context_.constantRow(address, bytes);
}

uint8_t Decoder::source(const Operand& operand, OperandType type) {
  switch (operand.kind) {
    case Operand::Kind::reg:
      if (registerBytes(operand) != bytesOf(type))
        unsupported("register '" + operand.name + "' has another size");
      return sourceRow(context_.registerRow(operand.index));
    case Operand::Kind::immediate:
      return sourceRow(immediateRow(operand, type));
    case Operand::Kind::symbol:
    case Operand::Kind::variable:
      return sourceRow(symbolRow(operand, type));
    case Operand::Kind::sink:
      return sourceRow(context_.scratchRow(bytesOf(type)));
    default:
      unsupported("operand of another kind expected");
  }
}

uint8_t Decoder::anySource(const Operand& operand, OperandType type) {
  if (isRegister(operand) && registerBytes(operand) >= bytesOf(type)) {
    return sourceRow(context_.registerRow(operand.index));
  }
  return source(operand, type);
}

void Decoder::address(const Operand& operand, Space space) {
  if (operand.kind != Operand::Kind::address) unsupported("an address in brackets expected");
  const Operand& base = operand.items[0];
  inst.space = space;
  inst.immediate = operand.offset;
  if (isRegister(base)) {
    if (registerBytes(base) != 4 && registerBytes(base) != 8)
      unsupported("an address must have 32 or 64 bits");
    // A parameter whose address was taken may live in parameter or, in an inlined function, in local memory.
    if (space == Space::param) inst.space = Space::generic;
    inst.addressBytes = static_cast<uint8_t>(registerBytes(base));
    inst.address = sourceRow(context_.registerRow(base.index));
    return;
  }
  inst.addressBytes = 8;
  if (base.kind == Operand::Kind::immediate) {
    inst.address = sourceRow(context_.constantRow(base.bits, 8));
    return;
  }
  const DecodeContext::Place place = context_.placeOf(base, statement.ptxLine);
  uint64_t address = place.address;
  if (space == Space::generic || space == Space::param) {
    inst.space = place.space;
  } else if (space != place.space && !(space == Space::constant && place.space == Space::global)) {
    unsupported("'" + base.name + "' lies in another state space");
  }
  inst.address = sourceRow(context_.constantRow(address, 8));
}

int64_t Decoder::constantOf(const Operand& operand) const {
  if (operand.kind != Operand::Kind::immediate) unsupported("a constant expected");
  return static_cast<int64_t>(operand.bits);
}

// -- tables
// ---------------------------------------------------------------------------------------------------------

Special specialByName(const std::string& name) {
  static const std::unordered_map<std::string, Special> names = {
      {"%tid.x", Special::tidX},
      {"%tid.y", Special::tidY},
      {"%tid.z", Special::tidZ},
      {"%ntid.x", Special::ntidX},
      {"%ntid.y", Special::ntidY},
      {"%ntid.z", Special::ntidZ},
      {"%ctaid.x", Special::ctaidX},
      {"%ctaid.y", Special::ctaidY},
      {"%ctaid.z", Special::ctaidZ},
      {"%nctaid.x", Special::nctaidX},
      {"%nctaid.y", Special::nctaidY},
      {"%nctaid.z", Special::nctaidZ},
      {"%laneid", Special::laneid},
      {"%warpid", Special::warpid},
      {"%nwarpid", Special::nwarpid},
      {"%smid", Special::smid},
      {"%nsmid", Special::nsmid},
      {"%gridid", Special::gridid},
      {"%lanemask_eq", Special::maskEq},
      {"%lanemask_lt", Special::maskLt},
      {"%lanemask_le", Special::maskLe},
      {"%lanemask_gt", Special::maskGt},
      {"%lanemask_ge", Special::maskGe},
      {"%dynamic_smem_size", Special::dynamicShared},
      {"%total_smem_size", Special::totalShared},
      {"%cluster_nctaid.x", Special::clusterOne},
      {"%cluster_nctaid.y", Special::clusterOne},
      {"%cluster_nctaid.z", Special::clusterOne},
      {"%cluster_nctarank", Special::clusterOne},
      {"%cluster_ctaid.x", Special::zero},
      {"%cluster_ctaid.y", Special::zero},
      {"%cluster_ctaid.z", Special::zero},
      {"%cluster_ctarank", Special::zero},
      {"%nclusterid.x", Special::nctaidX},
      {"%nclusterid.y", Special::nctaidY},
      {"%nclusterid.z", Special::nctaidZ},
      {"%clusterid.x", Special::ctaidX},
      {"%clusterid.y", Special::ctaidY},
      {"%clusterid.z", Special::ctaidZ},
      {"%is_explicit_cluster", Special::zero},
      {"%envreg0", Special::zero},
      {"%envreg1", Special::gridWorkspaceHigh},
      {"%envreg2", Special::gridWorkspaceLow}};
  const auto found = names.find(name);
  return found == names.end() ? Special::none : found->second;
}

void FormTable::add(const std::string& spelling, Category category, Form form) {
  form.category = category;
  forms_[spelling] = std::move(form);
}

const Form* FormTable::find(const std::string& spelling) const {
  const auto found = forms_.find(spelling);
  return found == forms_.end() ? nullptr : &found->second;
}

const FormTable& FormTable::instance() {
  static const FormTable table = [] {
    FormTable forms;
    addIntegerForms(forms);
    addBitForms(forms);
    addFloatForms(forms);
    addDoubleForms(forms);
    addHalfForms(forms);
    addCompareForms(forms);
    addMoveForms(forms);
    return forms;
  }();
  return table;
}

std::vector<std::string> supportedForms() {
  std::vector<std::string> names;
  for (const auto& [spelling, form] : FormTable::instance().all()) names.push_back(spelling);
  listFamilies(names);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace ptxemu
