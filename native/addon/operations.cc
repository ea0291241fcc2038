// The table of operations: one line each.
#include "addon/operations.h"

#include "addon/arguments.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/experts.h"
#include "ops/frozen_experts.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/normalization.h"
#include "ops/optimizer.h"
#include "ops/router_losses.h"
#include "ops/soft_routing.h"
#include "ops/sparse_routing.h"

namespace softmoe::addon {

namespace {

struct Row {
  const char* name;
  Napi::Value (*invoke)(const Napi::CallbackInfo&);
};

template <auto Function>
constexpr auto call = &Call<Function>::invoke;

constexpr Row kOperations[] = {
    {"full", call<&ops::full>},
    {"random", call<&ops::random>},
    {"reshape", call<&ops::reshape>},
    {"cast", call<&ops::cast>},
    {"add", call<&ops::add>},
    {"addInPlace", call<&ops::add_in_place>},
    {"copyInto", call<&ops::copy_into>},
    {"fillInPlace", call<&ops::fill_in_place>},
    {"multiply", call<&ops::multiply>},
    {"scale", call<&ops::scale>},
    {"slice", call<&ops::slice>},
    {"sliceBackward", call<&ops::slice_backward>},
    {"concat", call<&ops::concat>},
    {"sum", call<&ops::sum>},
    {"sumAll", call<&ops::sum_all>},
    {"broadcast", call<&ops::broadcast>},
    {"broadcastScalar", call<&ops::broadcast_scalar>},
    {"activate", call<&ops::activate>},
    {"activateBackward", call<&ops::activate_backward>},
    {"dropout", call<&ops::dropout>},
    {"transpose", call<&ops::transpose>},
    {"patchify", call<&ops::patchify>},
    {"unpatchify", call<&ops::unpatchify>},
    {"countNonFinite", call<&ops::count_non_finite>},
    {"matmul", call<&ops::matmul>},
    {"linear", call<&ops::linear>},
    {"linearBackwardInput", call<&ops::linear_backward_input>},
    {"linearBackwardWeight", call<&ops::linear_backward_weight>},
    {"experts", call<&ops::experts>},
    {"expertsBackward", call<&ops::experts_backward>},
    {"freezeExperts", call<&ops::freeze_experts>},
    {"frozenExperts", call<&ops::frozen_experts>},
    {"layerNorm", call<&ops::layer_norm>},
    {"layerNormBackward", call<&ops::layer_norm_backward>},
    {"l2Normalize", call<&ops::l2_normalize>},
    {"l2NormalizeBackward", call<&ops::l2_normalize_backward>},
    {"softmax", call<&ops::softmax>},
    {"softmaxBackward", call<&ops::softmax_backward>},
    {"attention", call<&ops::attention>},
    {"attentionBackward", call<&ops::attention_backward>},
    {"crossEntropy", call<&ops::cross_entropy>},
    {"crossEntropyBackward", call<&ops::cross_entropy_backward>},
    {"argmax", call<&ops::argmax>},
    {"adamwStep", call<&ops::adamw_step>},
    {"sgdStep", call<&ops::sgd_step>},
    {"globalNorm", call<&ops::global_norm>},
    {"softLogits", call<&ops::soft_logits>},
    {"tokensToSlots", call<&ops::tokens_to_slots>},
    {"slotsToTokens", call<&ops::slots_to_tokens>},
    {"softWeights", call<&ops::soft_weights>},
    {"softLogitsGradient", call<&ops::soft_logits_gradient>},
    {"softLogitsBackward", call<&ops::soft_logits_backward>},
    {"tokensChoice", call<&ops::tokens_choice>},
    {"expertsChoice", call<&ops::experts_choice>},
    {"rowsFromTokensChoice", call<&ops::rows_from_tokens_choice>},
    {"rowsFromExpertsChoice", call<&ops::rows_from_experts_choice>},
    {"gatherGates", call<&ops::gather_gates>},
    {"gatherGatesBackward", call<&ops::gather_gates_backward>},
    {"normalizeSelected", call<&ops::normalize_selected>},
    {"normalizeSelectedBackward", call<&ops::normalize_selected_backward>},
    {"combineRows", call<&ops::combine_rows>},
    {"combineRowsBackward", call<&ops::combine_rows_backward>},
    {"routerLoss", call<&ops::router_loss>},
    {"routerLossBackward", call<&ops::router_loss_backward>},
    {"sinkhornPlan", call<&ops::sinkhorn_plan>},
    {"sinkhornPlanBackward", call<&ops::sinkhorn_plan_backward>},
    {"sparsePlan", call<&ops::sparse_plan>},
};

}  // namespace

void export_operations(Napi::Env env, Napi::Object exports) {
  for (const Row& row : kOperations) exports.Set(row.name, Napi::Function::New(env, row.invoke, row.name));
}

}  // namespace softmoe::addon
