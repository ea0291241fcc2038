#include "ops/sparse_routing.h"

#include <algorithm>
#include <utility>

#include "ops/check.h"
#include "ops/index_checks.h"

namespace softmoe::ops {

namespace {

GroupShape checked_groups(const Check& check, const char* name, const Tensor& scores) {
  check.dtype(name, scores, DType::kFloat32);
  check.rank(name, scores, 3, "[groups, tokens, experts]");
  check.that(scores.shape()[2] > 0, "there are no experts; wanted at least one");
  return {scores.shape()[0], scores.shape()[1], scores.shape()[2]};
}

struct NewLists {
  Tensor expert_offsets, row_token, token_offsets, token_rows;
  RowLists lists() const {
    return {expert_offsets.buffer(), row_token.buffer(), token_offsets.buffer(), token_rows.buffer(),
            row_token.count()};
  }
  std::shared_ptr<IndexProof> proof(const GroupShape& shape) const {
    return new_proof(shape, 0, row_token.count(),
                     {{&expert_offsets, IndexRole::kExpertOffsets},
                      {&row_token, IndexRole::kRowToken},
                      {&token_offsets, IndexRole::kTokenOffsets},
                      {&token_rows, IndexRole::kTokenRows}});
  }
};

NewLists new_lists(const std::shared_ptr<Device>& device, const GroupShape& shape, std::int64_t max_rows) {
  const auto make = [&](std::int64_t count) { return Tensor::empty(device, {count}, DType::kInt32); };
  return {make(shape.experts + 1), make(max_rows), make(shape.groups * shape.tokens + 1), make(max_rows)};
}

RowLists checked_lists(const Check& check, const RowListOperands& lists, std::int64_t experts,
                       std::int64_t tokens) {
  check.same_device({&lists.expert_offsets, &lists.row_token, &lists.token_offsets, &lists.token_rows});
  for (const auto& [name, tensor] :
       {std::pair<const char*, const Tensor*>{"expertOffsets", &lists.expert_offsets},
        {"rowToken", &lists.row_token},
        {"tokenOffsets", &lists.token_offsets},
        {"tokenRows", &lists.token_rows}}) {
    check.rank(name, *tensor, 1, "a list of rows");
    check.dtype(name, *tensor, DType::kInt32);
  }
  check.shape("expertOffsets", lists.expert_offsets, {experts + 1}, "[experts + 1]");
  check.shape("tokenOffsets", lists.token_offsets, {tokens + 1}, "[tokens + 1]");
  check.same_shape("tokenRows", lists.token_rows, "rowToken", lists.row_token);
  return {lists.expert_offsets.buffer(), lists.row_token.buffer(), lists.token_offsets.buffer(),
          lists.token_rows.buffer(), lists.row_token.count()};
}

// `args.lists` are `operands`, of which nothing else is known than their shapes.
template <class Args>
void launch_on_lists(Device& device, const Args& args, const RowListOperands& operands, std::int64_t experts,
                     std::int64_t tokens) {
  RowListCheck check;
  check.operation = Args::kName;
  check.lists = args.lists;
  check.experts = experts;
  check.tokens = tokens;
  std::shared_ptr<IndexProof> proof = common_proof({{&operands.expert_offsets, IndexRole::kExpertOffsets},
                                                    {&operands.row_token, IndexRole::kRowToken},
                                                    {&operands.token_offsets, IndexRole::kTokenOffsets},
                                                    {&operands.token_rows, IndexRole::kTokenRows}});
  if (proof && (proof->experts != experts || proof->groups * proof->tokens != tokens)) proof = nullptr;
  launch_on_rows(device, args, check, proof);
}

// Selected experts [groups, tokens, k] of which nothing else is known than their shape.
SelectionCheck expert_check(const char* operation, const Tensor& expert, const Buffer& position,
                            std::int64_t experts) {
  SelectionCheck check;
  check.operation = operation;
  check.selected = expert.buffer();
  check.position = position;
  check.sets = expert.shape()[0] * expert.shape()[1];
  check.k = expert.shape()[2];
  check.end = experts;
  check.distinct = true;
  return check;
}

bool proves_experts(const std::shared_ptr<IndexProof>& proof, const Tensor& expert, std::int64_t experts) {
  return proof && proof->experts <= experts && proof->groups == expert.shape()[0] &&
         proof->tokens == expert.shape()[1] && proof->k == expert.shape()[2];
}

template <class Args>
void launch_on_selection(Device& device, const Args& args, const Tensor& expert) {
  std::shared_ptr<IndexProof> proof = common_proof({{&expert, IndexRole::kExpert}});
  if (!proves_experts(proof, expert, args.shape.experts)) proof = nullptr;
  const SelectionCheck check = expert_check(Args::kName, expert, {}, args.shape.experts);
  device.submit(Args::kName, [given = args, check, proof](Kernels& kernels) {
    if (proof && proof->holds) return kernels.run(given);
    const SafeSelection safe = kernels.checked(check);
    Args args = given;
    args.expert = safe.selected;
    kernels.run(args);
  });
}

// The lists of a selection without a proof are checked, too: harmless elements need not make a sound whole.
RowListCheck check_of_made(const char* operation, const RowLists& lists, const GroupShape& shape,
                           RowListCheck::Origin origin) {
  RowListCheck check;
  check.operation = operation;
  check.lists = lists;
  check.experts = shape.experts;
  check.tokens = shape.groups * shape.tokens;
  check.origin = origin;
  return check;
}

}  // namespace

std::tuple<Tensor, Tensor> tokens_choice(const Tensor& scores, std::int64_t k, RoutingPriority priority) {
  const Check check("tokens_choice");
  const GroupShape shape = checked_groups(check, "scores", scores);
  check.that(k >= 1 && k <= shape.experts, "k is " + std::to_string(k) + "; wanted 1 to " +
                                               std::to_string(shape.experts) + ", the number of experts");
  const Shape selected{shape.groups, shape.tokens, k};
  const Tensor expert = Tensor::empty(scores.device(), selected, DType::kInt32);
  const Tensor position = Tensor::empty(scores.device(), selected, DType::kInt32);
  const auto proof =
      new_proof(shape, k, 0, {{&expert, IndexRole::kExpert}, {&position, IndexRole::kPosition}});
  const TokensChoice args{shape, k, priority, scores.buffer(), expert.buffer(), position.buffer()};
  scores.device()->submit(TokensChoice::kName, [args, proof](Kernels& kernels) {
    kernels.run(args);
    proof->holds = true;
  });
  return {expert, position};
}

Tensor experts_choice(const Tensor& scores, std::int64_t capacity) {
  const Check check("experts_choice");
  const GroupShape shape = checked_groups(check, "scores", scores);
  check.that(capacity >= 1 && capacity <= shape.tokens,
             "capacity is " + std::to_string(capacity) + "; wanted 1 to " + std::to_string(shape.tokens) +
                 ", the tokens of a group: lower the capacity factor or use larger groups");
  const Tensor token = Tensor::empty(scores.device(), {shape.groups, shape.experts, capacity}, DType::kInt32);
  const auto proof = new_proof(shape, capacity, 0, {{&token, IndexRole::kToken}});
  const ExpertsChoice args{shape, capacity, scores.buffer(), token.buffer()};
  scores.device()->submit(ExpertsChoice::kName, [args, proof](Kernels& kernels) {
    kernels.run(args);
    proof->holds = true;
  });
  return token;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rows_from_tokens_choice(const Tensor& expert,
                                                                   const Tensor& position,
                                                                   std::int64_t experts,
                                                                   std::int64_t capacity) {
  const Check check("rows_from_tokens_choice");
  check.same_device({&expert, &position});
  check.rank("expert", expert, 3, "[groups, tokens, k]");
  check.same_shape("position", position, "expert", expert);
  check.dtype("expert", expert, DType::kInt32);
  check.dtype("position", position, DType::kInt32);
  check.that(experts >= 1 && capacity >= 1, "experts and capacity must be 1 or more");
  RowsFromTokensChoice args;
  args.shape = {expert.shape()[0], expert.shape()[1], experts};
  args.k = expert.shape()[2];
  args.capacity = capacity;
  args.expert = expert.buffer();
  args.position = position.buffer();
  const std::int64_t buffers = args.shape.groups * experts * std::min(capacity, args.shape.tokens);
  const NewLists lists = new_lists(expert.device(), args.shape, std::min(expert.count(), buffers));
  args.lists = lists.lists();
  std::shared_ptr<IndexProof> proof =
      common_proof({{&expert, IndexRole::kExpert}, {&position, IndexRole::kPosition}});
  if (!proves_experts(proof, expert, experts)) proof = nullptr;
  const SelectionCheck selection =
      expert_check(RowsFromTokensChoice::kName, expert, position.buffer(), experts);
  const RowListCheck made = check_of_made(RowsFromTokensChoice::kName, args.lists, args.shape,
                                          RowListCheck::Origin::kSelectedExperts);
  expert.device()->submit(RowsFromTokensChoice::kName, [given = args, proof, selection, made,
                                                        own = lists.proof(args.shape)](Kernels& kernels) {
    if (proof && proof->holds) {
      kernels.run(given);
    } else {
      const SafeSelection safe = kernels.checked(selection);
      RowsFromTokensChoice args = given;
      args.expert = safe.selected;
      args.position = safe.position;
      kernels.run(args);
      kernels.checked(made);
    }
    own->holds = true;
  });
  return {lists.expert_offsets, lists.row_token, lists.token_offsets, lists.token_rows};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rows_from_experts_choice(const Tensor& token,
                                                                    std::int64_t tokens) {
  const Check check("rows_from_experts_choice");
  check.rank("token", token, 3, "[groups, experts, capacity]");
  check.dtype("token", token, DType::kInt32);
  check.that(tokens >= 0, "tokensPerGroup is " + std::to_string(tokens) + "; wanted 0 or more");
  RowsFromExpertsChoice args;
  args.shape = {token.shape()[0], tokens, token.shape()[1]};
  args.capacity = token.shape()[2];
  args.token = token.buffer();
  const NewLists lists = new_lists(token.device(), args.shape, token.count());
  args.lists = lists.lists();
  std::shared_ptr<IndexProof> proof = common_proof({{&token, IndexRole::kToken}});
  if (proof && (proof->groups != args.shape.groups || proof->experts != args.shape.experts ||
                proof->k != args.capacity || proof->tokens > tokens)) {
    proof = nullptr;
  }
  SelectionCheck selection;
  selection.operation = RowsFromExpertsChoice::kName;
  selection.selected = args.token;
  selection.sets = args.shape.groups * args.shape.experts;
  selection.k = args.capacity;
  selection.end = tokens;
  const RowListCheck made = check_of_made(RowsFromExpertsChoice::kName, args.lists, args.shape,
                                          RowListCheck::Origin::kSelectedTokens);
  token.device()->submit(RowsFromExpertsChoice::kName, [given = args, proof, selection, made,
                                                        own = lists.proof(args.shape)](Kernels& kernels) {
    if (proof && proof->holds) {
      kernels.run(given);
    } else {
      const SafeSelection safe = kernels.checked(selection);
      RowsFromExpertsChoice args = given;
      args.token = safe.selected;
      kernels.run(args);
      kernels.checked(made);
    }
    own->holds = true;
  });
  return {lists.expert_offsets, lists.row_token, lists.token_offsets, lists.token_rows};
}

Tensor gather_gates(const Tensor& gates, const RowListOperands& operands) {
  const Check check("gather_gates");
  check.same_device({&gates, &operands.row_token});
  GatherGates args;
  args.shape = checked_groups(check, "gates", gates);
  args.lists = checked_lists(check, operands, args.shape.experts, args.shape.groups * args.shape.tokens);
  const Tensor row_gate = Tensor::empty(gates.device(), {args.lists.max_rows}, DType::kFloat32);
  args.gates = gates.buffer();
  args.row_gate = row_gate.buffer();
  launch_on_lists(*gates.device(), args, operands, args.shape.experts, args.shape.groups * args.shape.tokens);
  return row_gate;
}

Tensor gather_gates_backward(const Tensor& drow_gate, const Shape& gates_shape,
                             const RowListOperands& operands) {
  const Check check("gather_gates_backward");
  const Tensor dgates = Tensor::empty(drow_gate.device(), gates_shape, DType::kFloat32);
  GatherGatesBackward args;
  args.shape = checked_groups(check, "gates", dgates);
  args.lists = checked_lists(check, operands, args.shape.experts, args.shape.groups * args.shape.tokens);
  check.shape("drowGate", drow_gate, {args.lists.max_rows}, "[max_rows]");
  check.dtype("drowGate", drow_gate, DType::kFloat32);
  args.drow_gate = drow_gate.buffer();
  args.dgates = dgates.buffer();
  launch_on_lists(*dgates.device(), args, operands, args.shape.experts,
                  args.shape.groups * args.shape.tokens);
  return dgates;
}

Tensor normalize_selected(const Tensor& gates, const Tensor& expert) {
  const Check check("normalize_selected");
  check.same_device({&gates, &expert});
  const GroupShape shape = checked_groups(check, "gates", gates);
  check.shape("expert", expert, {shape.groups, shape.tokens, Check::kAny}, "[groups, tokens, k]");
  check.dtype("expert", expert, DType::kInt32);
  const Tensor y = Tensor::empty(gates.device(), gates.shape(), DType::kFloat32);
  launch_on_selection(
      *gates.device(),
      NormalizeSelected{shape, expert.shape()[2], gates.buffer(), expert.buffer(), y.buffer()}, expert);
  return y;
}

Tensor normalize_selected_backward(const Tensor& gates, const Tensor& expert, const Tensor& dy) {
  const Check check("normalize_selected_backward");
  check.same_device({&gates, &expert, &dy});
  const GroupShape shape = checked_groups(check, "gates", gates);
  check.same_shape("dy", dy, "gates", gates);
  check.dtype("dy", dy, DType::kFloat32);
  check.shape("expert", expert, {shape.groups, shape.tokens, Check::kAny}, "[groups, tokens, k]");
  check.dtype("expert", expert, DType::kInt32);
  const Tensor dgates = Tensor::empty(gates.device(), gates.shape(), DType::kFloat32);
  launch_on_selection(*gates.device(),
                      NormalizeSelectedBackward{shape, expert.shape()[2], gates.buffer(), expert.buffer(),
                                                dy.buffer(), dgates.buffer()},
                      expert);
  return dgates;
}

Tensor combine_rows(const Tensor& rows, const std::optional<Tensor>& row_gate,
                    const RowListOperands& operands) {
  const Check check("combine_rows");
  check.same_device({&rows, pointer(row_gate), &operands.row_token});
  check.floating("rows", rows);
  check.shape("rows", rows, {operands.row_token.count(), Check::kAny}, "[max_rows, dim]");
  CombineRows args;
  args.tokens = operands.token_offsets.count() - 1;
  args.experts = operands.expert_offsets.count() - 1;
  args.dim = rows.shape()[1];
  args.lists = checked_lists(check, operands, args.experts, args.tokens);
  if (row_gate) {
    check.shape("rowGate", *row_gate, {args.lists.max_rows}, "[max_rows]");
    check.dtype("rowGate", *row_gate, DType::kFloat32);
  }
  const Tensor y = Tensor::empty(rows.device(), {args.tokens, args.dim}, rows.dtype());
  args.rows = rows.buffer();
  args.row_gate = buffer(row_gate);
  args.y = y.buffer();
  launch_on_lists(*rows.device(), args, operands, args.experts, args.tokens);
  return y;
}

std::tuple<Tensor, Tensor> combine_rows_backward(const Tensor& rows, const Tensor& row_gate, const Tensor& dy,
                                                 const RowListOperands& operands) {
  const Check check("combine_rows_backward");
  check.same_device({&rows, &row_gate, &dy, &operands.row_token});
  check.same_dtype("dy", dy, "rows", rows);
  check.shape("rows", rows, {operands.row_token.count(), Check::kAny}, "[max_rows, dim]");
  check.shape("rowGate", row_gate, {operands.row_token.count()}, "[max_rows]");
  check.dtype("rowGate", row_gate, DType::kFloat32);
  CombineRowsBackward args;
  args.tokens = operands.token_offsets.count() - 1;
  args.experts = operands.expert_offsets.count() - 1;
  args.dim = rows.shape()[1];
  args.lists = checked_lists(check, operands, args.experts, args.tokens);
  check.shape("dy", dy, {args.tokens, args.dim}, "[tokens, dim]");
  const Tensor drows = Tensor::empty(rows.device(), rows.shape(), rows.dtype());
  const Tensor drow_gate = Tensor::empty(rows.device(), row_gate.shape(), DType::kFloat32);
  args.rows = rows.buffer();
  args.row_gate = row_gate.buffer();
  args.dy = dy.buffer();
  args.drows = drows.buffer();
  args.drow_gate = drow_gate.buffer();
  launch_on_lists(*rows.device(), args, operands, args.experts, args.tokens);
  return {drows, drow_gate};
}

}  // namespace softmoe::ops
