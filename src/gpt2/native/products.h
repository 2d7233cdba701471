// Products from registers alone: the most that the kernels of a level could reach.

#pragma once

namespace gpt2 {
namespace {

constexpr int kIndependent = kRowsFloat * kPanelsFloat;   // sums side by side, as in a tile: they hide the latency

volatile float products_sink;   // keeps the sums from being left out

template <class Sum, class F>
inline void repeat(Sum start, int64_t rounds, const F& f) {
  Sum sums[kIndependent];
  GPT2_UNROLL for (int i = 0; i < kIndependent; ++i) sums[i] = start;
  for (int64_t round = 0; round < rounds; ++round) GPT2_UNROLL for (int i = 0; i < kIndependent; ++i) sums[i] = f(sums[i]);
  for (int i = 0; i < kIndependent; ++i) products_sink = max_across(to_lanes(sums[i]));
}

inline const Lanes& to_lanes(const Lanes& x) { return x; }

int64_t products(Form form, int64_t rounds) {
  alignas(64) static const int8_t codes[4 * kPanel] = {1, 2, 3, 4, 5, 6, 7, 8};
  const Lanes one = broadcast(1e-3f);
  int inputs = 1;
  if (form == Form::int8 || form == Form::int4) {
    const Codes w = load_weights(codes);
    const Quad x = broadcast_quad(codes);
    repeat(start_sums(0), rounds, [&](const Sums& sums) { return dot4(sums, w, x); });
    inputs = 4;
#if defined(GPT2_LANES_BF16)
  } else if (form == Form::bf16) {
    const Pairs w = load_pairs(reinterpret_cast<const Bf16*>(codes));
    repeat(one, rounds, [&](const Lanes& sums) { return dot2(sums, w, reinterpret_cast<const Bf16*>(codes)); });
    inputs = 2;
#endif
  } else {
    repeat(one, rounds, [&](const Lanes& sums) { return multiply_add(one, one, sums); });
  }
  return rounds * kIndependent * kPanel * inputs;
}

}  // namespace
}  // namespace gpt2
