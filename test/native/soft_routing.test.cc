// Soft MoE routing against loops in double: norms in both eps forms, masks (also of a whole sequence), noise,
// the uniform and identity weights, and all gradients; a sequence alone has the same bits as in a batch.
#include "cases.h"
#include "core/philox.h"

namespace softmoe::testing {
namespace {

using Doubles = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

double dot(const Doubles& a, std::int64_t a_first, const Doubles& b, std::int64_t b_first,
           std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += a[at(a_first + i)] * b[at(b_first + i)];
  return sum;
}

// Everything about one random routing, and the weights by loops.
struct Case {
  explicit Case(Random& random)
      : dtype(random.dtype()),
        mask(DType::kInt32, 0),
        logits(DType::kFloat32, 0),
        dispatch_lse(DType::kFloat32, 0),
        combine_lse(DType::kFloat32, 0) {
    shape.batch = random.integer(1, 3);
    shape.tokens = random.choose<std::int64_t>({1, 2, 7, 14, 15, 33, 49});
    shape.dim = random.choose<std::int64_t>({1, 3, 8, 17, 40, 96});
    shape.experts = random.integer(1, 9);
    shape.slots_per_expert = random.integer(1, 4);
    slots = shape.slots();
    rows = shape.batch * shape.tokens;
    const auto mode = [&] {
      return random.choose({RoutingWeights::kSoft, RoutingWeights::kSoft, RoutingWeights::kUniform,
                            RoutingWeights::kIdentity});
    };
    routing.shape = shape;
    routing.dispatch = mode(), routing.combine = mode();
    logits = Values(DType::kFloat32, rows * slots);
    dispatch_lse = Values(DType::kFloat32, shape.batch * slots);
    combine_lse = Values(DType::kFloat32, rows);
    routing.logits = logits.buffer();
    routing.dispatch_lse = dispatch_lse.buffer(), routing.combine_lse = combine_lse.buffer();
    valid.assign(at(rows), true);
    if (random.boolean()) {
      mask = Values(DType::kInt32, rows);
      const std::int64_t empty = random.integer(0, 2 * shape.batch);  // this sequence is all padding
      for (std::int64_t r = 0; r < rows; ++r) {
        valid[at(r)] = r / shape.tokens != empty && random.integer(0, 3) > 0;
        mask.set(r, valid[at(r)] ? 1 : 0);
      }
      routing.mask = mask.buffer();
    }
  }

  // After `logits` are there.
  Doubles weights(RoutingSide side) const {
    const bool dispatch = side == RoutingSide::kDispatch;
    const RoutingWeights mode = dispatch ? routing.dispatch : routing.combine;
    const std::int64_t period = std::min(shape.tokens, slots);
    Doubles w(at(rows * slots));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < slots; ++j) {
        const bool meets = mode != RoutingWeights::kIdentity || r % shape.tokens % period == j % period;
        if (!valid[at(r)] || !meets) continue;
        w[at(r * slots + j)] = mode == RoutingWeights::kSoft ? std::exp(logits[r * slots + j]) : 1;
      }
    }
    for (std::int64_t b = 0; dispatch && b < shape.batch; ++b) {
      for (std::int64_t j = 0; j < slots; ++j) {
        double sum = 0;
        for (std::int64_t m = 0; m < shape.tokens; ++m) sum += w[at((b * shape.tokens + m) * slots + j)];
        for (std::int64_t m = 0; m < shape.tokens && sum > 0; ++m)
          w[at((b * shape.tokens + m) * slots + j)] /= sum;
      }
    }
    for (std::int64_t r = 0; !dispatch && r < rows; ++r) {
      double sum = 0;
      for (std::int64_t j = 0; j < slots; ++j) sum += w[at(r * slots + j)];
      for (std::int64_t j = 0; j < slots && sum > 0; ++j) w[at(r * slots + j)] /= sum;
    }
    return w;
  }

  std::int64_t slot_row(std::int64_t sequence, std::int64_t j) const {
    const std::int64_t per_expert = shape.slots_per_expert;
    return (j / per_expert * shape.batch + sequence) * per_expert + j % per_expert;
  }
  std::string text() const {
    return std::string(name_of(dtype)) + " batch " + std::to_string(shape.batch) + " tokens " +
           std::to_string(shape.tokens) + " dim " + std::to_string(shape.dim) + " experts " +
           std::to_string(shape.experts) + "x" + std::to_string(shape.slots_per_expert) + " modes " +
           std::to_string(static_cast<int>(routing.dispatch)) +
           std::to_string(static_cast<int>(routing.combine)) + (routing.mask ? " masked" : "");
  }

  DType dtype;
  SoftRoutingShape shape;
  SoftRouting routing;
  std::int64_t slots = 0, rows = 0;
  Values mask, logits, dispatch_lse, combine_lse;
  std::vector<bool> valid;
};

struct Router {
  Router(Random& random, const Case& c)
      : x(random.values(c.dtype, c.rows * c.shape.dim)),
        phi(random.values(DType::kFloat32, c.shape.dim * c.slots, random.choose({1.0, 1e-3}))),
        scale(DType::kFloat32, Doubles{random.choose({1.0, 6.0})}),
        token_norm(DType::kFloat32, c.rows),
        slot_norm(DType::kFloat32, c.slots) {
    forward.routing = c.routing;
    forward.x = x.buffer(), forward.phi = phi.buffer(), forward.scale = scale.buffer();
    forward.token_norm = token_norm.buffer(), forward.slot_norm = slot_norm.buffer();
    forward.eps = 1e-6;
    forward.eps_inside_root = random.boolean();
    forward.noise_std = random.choose({0.0, 0.0, 0.5});
    forward.key = {3, 8};
  }
  double inverse_norm(double squares) const {
    return forward.eps_inside_root ? 1 / std::sqrt(squares + forward.eps)
                                   : 1 / (std::sqrt(squares) + forward.eps);
  }
  Values x, phi, scale, token_norm, slot_norm;
  SoftLogitsForward forward;
};

void check_logits(Kernels& kernels, const Case& c, const Router& router) {
  check_same_on_any_threads([&] { kernels.run(router.forward); }, {&c.logits, &c.dispatch_lse, &c.combine_lse,
                                                                   &router.token_norm, &router.slot_norm});
  const Doubles x = router.x.doubles(), phi = router.phi.doubles();
  const std::int64_t dim = c.shape.dim;
  Doubles token_norm, slot_norm, logits, combine_lse, dispatch_lse;
  for (std::int64_t r = 0; r < c.rows; ++r)
    token_norm.push_back(router.inverse_norm(dot(x, r * dim, x, r * dim, dim)));
  for (std::int64_t j = 0; j < c.slots; ++j) {
    double squares = 0;
    for (std::int64_t d = 0; d < dim; ++d) squares += phi[at(d * c.slots + j)] * phi[at(d * c.slots + j)];
    slot_norm.push_back(router.inverse_norm(squares));
  }
  for (std::int64_t r = 0; r < c.rows; ++r) {
    double sum_of_row = 0;
    for (std::int64_t j = 0; j < c.slots; ++j) {
      double sum = 0;
      for (std::int64_t d = 0; d < dim; ++d) sum += x[at(r * dim + d)] * phi[at(d * c.slots + j)];
      double value = router.scale[0] * sum * token_norm[at(r)] * slot_norm[at(j)];
      if (router.forward.noise_std != 0) {
        value += router.forward.noise_std *
                 static_cast<double>(normal(router.forward.key, static_cast<std::uint64_t>(r * c.slots + j)));
      }
      logits.push_back(value);
      sum_of_row += std::exp(value);
    }
    combine_lse.push_back(std::log(sum_of_row));
  }
  for (std::int64_t b = 0; b < c.shape.batch; ++b) {
    for (std::int64_t j = 0; j < c.slots; ++j) {
      double sum = 0;
      for (std::int64_t m = 0; m < c.shape.tokens; ++m) {
        const std::int64_t r = b * c.shape.tokens + m;
        if (c.valid[at(r)]) sum += std::exp(logits[at(r * c.slots + j)]);
      }
      dispatch_lse.push_back(sum > 0 ? std::log(sum) : HUGE_VAL);
    }
  }
  CHECK_CLOSE(router.token_norm, token_norm, 2e-6);
  CHECK_CLOSE(router.slot_norm, slot_norm, 2e-6);
  CHECK_CLOSE(c.logits, logits, 5e-6);
  CHECK_CLOSE(c.combine_lse, combine_lse, 5e-6);
  CHECK_CLOSE(c.dispatch_lse, dispatch_lse, 5e-6);
}

void check_weighted_sums(Kernels& kernels, Random& random, const Case& c) {
  const std::int64_t dim = c.shape.dim;
  // Weights are operands too: in bfloat16 they are rounded.
  const double tolerance = c.dtype == DType::kBFloat16 ? 1e-2 : 2e-5;
  for (const RoutingSide side : {RoutingSide::kDispatch, RoutingSide::kCombine}) {
    const Doubles w = c.weights(side);
    const Values weights(DType::kFloat32, c.rows * c.slots);
    SoftWeights inspect;
    inspect.routing = c.routing, inspect.side = side, inspect.weights = weights.buffer();
    kernels.run(inspect);
    CHECK_CLOSE(weights, w, 1e-5);

    const Values x = random.values(c.dtype, c.rows * dim), slots(c.dtype, c.shape.batch * c.slots * dim);
    TokensToSlots dispatch;
    dispatch.routing = c.routing, dispatch.side = side, dispatch.x = x.buffer(),
    dispatch.slots = slots.buffer();
    check_same_on_any_threads([&] { kernels.run(dispatch); }, {&slots});
    Doubles wanted_slots(at(slots.count()));
    const Values y = random.values(c.dtype, c.rows * dim);
    Doubles wanted_y = y.doubles();
    SlotsToTokens combine;
    combine.routing = c.routing, combine.side = side, combine.slots = slots.buffer(), combine.y = y.buffer();
    combine.accumulate = random.boolean();
    if (!combine.accumulate) wanted_y.assign(wanted_y.size(), 0);
    const Doubles made_slots = slots.doubles();
    for (std::int64_t r = 0; r < c.rows; ++r) {
      for (std::int64_t j = 0; j < c.slots; ++j) {
        const std::int64_t row = c.slot_row(r / c.shape.tokens, j);
        for (std::int64_t d = 0; d < dim; ++d) {
          wanted_slots[at(row * dim + d)] += w[at(r * c.slots + j)] * x[r * dim + d];
          wanted_y[at(r * dim + d)] += w[at(r * c.slots + j)] * made_slots[at(row * dim + d)];
        }
      }
    }
    CHECK_CLOSE(slots, wanted_slots, tolerance);
    kernels.run(combine);
    CHECK_CLOSE(y, wanted_y, tolerance);
  }
}

void check_gradients(Kernels& kernels, Random& random, const Case& c, const Router& router) {
  const std::int64_t dim = c.shape.dim;
  const Values slots_in = random.values(c.dtype, c.shape.batch * c.slots * dim);
  const Values dslots_in = random.values(c.dtype, slots_in.count());
  const Values slots_out = random.values(c.dtype, slots_in.count());
  const Values dy = random.values(c.dtype, c.rows * dim), y = random.values(c.dtype, c.rows * dim);
  const Values before = random.values(DType::kFloat32, c.rows * c.slots);
  Values dlogits = before;
  SoftLogitsGradient gradient;
  gradient.routing = c.routing;
  const bool through_dispatch = random.integer(0, 3) > 0,
             through_combine = !through_dispatch || random.integer(0, 3) > 0;
  if (through_dispatch) {
    gradient.x = router.x.buffer(), gradient.slots_in = slots_in.buffer(),
    gradient.dslots_in = dslots_in.buffer();
  }
  if (through_combine)
    gradient.dy = dy.buffer(), gradient.y = y.buffer(), gradient.slots_out = slots_out.buffer();
  gradient.accumulate = random.boolean();
  check_same_on_any_threads(
      [&] {
        dlogits = before;
        gradient.dlogits = dlogits.buffer();
        kernels.run(gradient);
      },
      {&dlogits});
  const Doubles d_weights = c.weights(RoutingSide::kDispatch), c_weights = c.weights(RoutingSide::kCombine);
  const Doubles in = slots_in.doubles(), din = dslots_in.doubles(), out = slots_out.doubles();
  const Doubles x = router.x.doubles(), dys = dy.doubles(), ys = y.doubles();
  Doubles wanted = before.doubles();
  if (!gradient.accumulate) wanted.assign(wanted.size(), 0);
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t j = 0; j < c.slots; ++j) {
      const std::int64_t row = c.slot_row(r / c.shape.tokens, j) * dim, i = r * c.slots + j;
      if (through_dispatch && c.routing.dispatch == RoutingWeights::kSoft) {
        wanted[at(i)] += d_weights[at(i)] * (dot(x, r * dim, din, row, dim) - dot(in, row, din, row, dim));
      }
      if (through_combine && c.routing.combine == RoutingWeights::kSoft) {
        wanted[at(i)] +=
            c_weights[at(i)] * (dot(dys, r * dim, out, row, dim) - dot(ys, r * dim, dys, r * dim, dim));
      }
    }
  }
  CHECK_CLOSE(dlogits, wanted, 2e-5);

  const Values dx_before = random.values(c.dtype, c.rows * dim);
  Values dx = dx_before;
  const Values dphi(DType::kFloat32, dim * c.slots), dscale(DType::kFloat32, 1);
  SoftLogitsBackward backward;
  backward.shape = c.shape;
  backward.x = router.x.buffer(), backward.phi = router.phi.buffer(), backward.scale = router.scale.buffer();
  backward.token_norm = router.token_norm.buffer(), backward.slot_norm = router.slot_norm.buffer();
  backward.dlogits = dlogits.buffer(), backward.dphi = dphi.buffer(), backward.dscale = dscale.buffer();
  backward.eps = router.forward.eps, backward.eps_inside_root = router.forward.eps_inside_root;
  backward.accumulate_dx = random.boolean();
  check_same_on_any_threads(
      [&] {
        dx = dx_before;
        backward.dx = dx.buffer();
        kernels.run(backward);
      },
      {&dx, &dphi, &dscale});

  const Doubles phi = router.phi.doubles(), dl = dlogits.doubles();
  const double scale = router.scale[0];
  // By the chain rule through vhat = r(v) v, written out: d r / d v = -r^3 v (eps inside), -r^2 v / |v|
  // (outside).
  const auto through_norm = [&](const Doubles& v, const Doubles& dvhat) {
    const std::int64_t n = static_cast<std::int64_t>(v.size());
    const double squares = dot(v, 0, v, 0, n), r = router.inverse_norm(squares);
    const double slope =
        router.forward.eps_inside_root ? r * r * r : (squares > 0 ? r * r / std::sqrt(squares) : 0);
    const double projection = dot(v, 0, dvhat, 0, n) * slope;
    Doubles dv;
    for (std::int64_t i = 0; i < n; ++i) dv.push_back(r * dvhat[at(i)] - projection * v[at(i)]);
    return dv;
  };
  Doubles wanted_dx = dx_before.doubles(), wanted_dphi(at(dphi.count()));
  if (!backward.accumulate_dx) wanted_dx.assign(wanted_dx.size(), 0);
  double wanted_dscale = 0, magnitude = 0;
  Doubles token_norms, slot_norms;
  for (std::int64_t r = 0; r < c.rows; ++r)
    token_norms.push_back(router.inverse_norm(dot(x, r * dim, x, r * dim, dim)));
  for (std::int64_t j = 0; j < c.slots; ++j) {
    double squares = 0;
    for (std::int64_t d = 0; d < dim; ++d) squares += phi[at(d * c.slots + j)] * phi[at(d * c.slots + j)];
    slot_norms.push_back(router.inverse_norm(squares));
  }
  for (std::int64_t r = 0; r < c.rows; ++r) {
    Doubles value(at(dim)), dhat(at(dim));
    for (std::int64_t d = 0; d < dim; ++d) {
      value[at(d)] = x[at(r * dim + d)];
      for (std::int64_t j = 0; j < c.slots; ++j) {
        const double term = dl[at(r * c.slots + j)] * phi[at(d * c.slots + j)] * slot_norms[at(j)];
        dhat[at(d)] += scale * term;
        wanted_dscale += term * value[at(d)] * token_norms[at(r)];
        magnitude += std::fabs(term * value[at(d)] * token_norms[at(r)]);
      }
    }
    const Doubles dv = through_norm(value, dhat);
    for (std::int64_t d = 0; d < dim; ++d) wanted_dx[at(r * dim + d)] += dv[at(d)];
  }
  for (std::int64_t j = 0; j < c.slots; ++j) {
    Doubles value(at(dim)), dhat(at(dim));
    for (std::int64_t d = 0; d < dim; ++d) {
      value[at(d)] = phi[at(d * c.slots + j)];
      for (std::int64_t r = 0; r < c.rows; ++r) {
        dhat[at(d)] += scale * dl[at(r * c.slots + j)] * x[at(r * dim + d)] * token_norms[at(r)];
      }
    }
    const Doubles dv = through_norm(value, dhat);
    for (std::int64_t d = 0; d < dim; ++d) wanted_dphi[at(d * c.slots + j)] = dv[at(d)];
  }
  // With one dimension the normalised vector is constant and its gradient a rounding error around zero.
  if (dim > 1) {
    CHECK_CLOSE(dx, wanted_dx, tolerance_of(c.dtype));
    CHECK_CLOSE(dphi, wanted_dphi, 2e-5);
  }
  CHECK(std::fabs(dscale[0] - wanted_dscale) <= 1e-5 * magnitude + 1e-12);
}

void check_sequence_alone(Kernels& kernels, Random& random, const Case& c, const Router& router) {
  const std::int64_t b = random.integer(0, c.shape.batch - 1), size = c.shape.tokens * c.slots;
  const Values logits(DType::kFloat32, size), dispatch_lse(DType::kFloat32, c.slots);
  const Values combine_lse(DType::kFloat32, c.shape.tokens), token_norm(DType::kFloat32, c.shape.tokens);
  const Values slot_norm(DType::kFloat32, c.slots);
  if (router.forward.noise_std != 0) return;
  SoftLogitsForward single = router.forward;
  single.routing.shape.batch = 1;
  single.x = part(router.x, b * c.shape.tokens * c.shape.dim);
  single.routing.logits = logits.buffer(), single.routing.dispatch_lse = dispatch_lse.buffer();
  single.routing.combine_lse = combine_lse.buffer();
  single.token_norm = token_norm.buffer(), single.slot_norm = slot_norm.buffer();
  if (single.routing.mask) single.routing.mask = part(c.mask, b * c.shape.tokens);
  kernels.run(single);
  CHECK(std::memcmp(logits.buffer().data, part(c.logits, b * size).data, at(size) * 4) == 0);
  CHECK(std::memcmp(dispatch_lse.buffer().data, part(c.dispatch_lse, b * c.slots).data, at(c.slots) * 4) ==
        0);

  const std::int64_t dim = c.shape.dim, per_expert = c.shape.slots_per_expert;
  const Values all(c.dtype, c.shape.batch * c.slots * dim), alone(c.dtype, c.slots * dim);
  TokensToSlots dispatch;
  dispatch.routing = c.routing, dispatch.x = router.x.buffer(), dispatch.slots = all.buffer();
  kernels.run(dispatch);
  dispatch.routing = single.routing, dispatch.x = single.x, dispatch.slots = alone.buffer();
  kernels.run(dispatch);
  for (std::int64_t e = 0; e < c.shape.experts; ++e) {
    CHECK(std::memcmp(part(alone, e * per_expert * dim).data,
                      part(all, (e * c.shape.batch + b) * per_expert * dim).data,
                      at(per_expert * dim) * size_of(c.dtype)) == 0);
  }
}

TEST(soft_routing_agrees_with_loops) {
  for_each_instruction_set([](Kernels& kernels) {
    for_random_cases(80, [&](Random& random) {
      const Case c(random);
      const Context context(c.text());
      const Router router(random, c);
      check_logits(kernels, c, router);
      check_weighted_sums(kernels, random, c);
      check_gradients(kernels, random, c, router);
      check_sequence_alone(kernels, random, c, router);
    });
  });
}

// The weights of one token against log-sum-exps of 0 are plain exponentials.
TEST(exponentials_are_within_two_units_in_the_last_place) {
  if (tests_cuda()) return;  // a device has its own
  for_each_instruction_set([](Kernels& kernels) {
    const std::int64_t count = 100001;
    std::vector<double> arguments;
    for (std::int64_t i = 0; i < count; ++i) {
      arguments.push_back(-87.3365 + (88.7228 + 87.3365) * static_cast<double>(i) / (count - 1));
    }
    const std::size_t regular = arguments.size();
    arguments.insert(arguments.end(), {-INFINITY, -1e30, -104, -88, -87.337, 88.723, 1e30, INFINITY, NAN});
    const Values logits(DType::kFloat32, arguments), zero(DType::kFloat32, std::vector<double>{0.0});
    const Values weights(DType::kFloat32, logits.count());
    SoftWeights inspect;
    inspect.routing.shape = {1, 1, 1, logits.count(), 1};
    inspect.routing.logits = logits.buffer(), inspect.routing.combine_lse = zero.buffer();
    inspect.side = RoutingSide::kCombine, inspect.weights = weights.buffer();
    kernels.run(inspect);
    const std::vector<double> x = logits.doubles(), y = weights.doubles();
    for (std::size_t i = 0; i < regular; ++i) {
      CHECK(std::abs(y[i] / std::exp(x[i]) - 1) <= 1.2e-7);
    }
    const std::vector<double> edges(y.begin() + static_cast<std::ptrdiff_t>(regular), y.end());
    CHECK_CLOSE(edges, (std::vector<double>{0, 0, 0, 0, 0, INFINITY, INFINITY, INFINITY, NAN}), 0);
  });
}

}  // namespace
}  // namespace softmoe::testing
