// A tile's products over operands that stay in the L1 cache: the peak that a level's kernels could reach.

#pragma once

namespace gpt2 {
namespace {

alignas(64) const unsigned char kOperands[64 * kPanel] = {};   // zeros, valid in every form
volatile float products_sink;                                  // keeps the sums from being optimized away

inline const Lanes& to_lanes(const Lanes& x) { return x; }

// R x P products a round. Operand addresses are opaque each time, so that nothing is hoisted out of the rounds.
template <int R, int P, class Sum, class W, class X, class Dot>
inline void repeat(const Sum& start, int64_t rounds, const W& weights_at, const X& input_at, const Dot& dot) {
  const unsigned char* volatile where = kOperands;
  Sum sums[R][P];
  GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = start;
  for (int64_t round = 0; round < rounds; ++round) {
    const unsigned char* const here = where;
    decltype(weights_at(here)) weights[P];
    GPT2_UNROLL for (int p = 0; p < P; ++p) weights[p] = weights_at(here + 128 * p);
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      const auto input = input_at(here + 4 * r);
      GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = dot(sums[r][p], weights[p], input);
    }
  }
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) products_sink = max_across(to_lanes(sums[r][p]));
}

int64_t products(Form form, int64_t rounds) {
  if (form == Form::int8 || form == Form::int4) {
    repeat<kRowsInt8, kPanelsInt8>(
        start_sums(0), rounds, [](const unsigned char* p) { return load_weights(reinterpret_cast<const int8_t*>(p)); },
        [](const unsigned char* p) { return broadcast_quad(reinterpret_cast<const int8_t*>(p)); },
        [](const Sums& sums, const Codes& w, const Quad& x) { return dot4(sums, w, x); });
    return rounds * kRowsInt8 * kPanelsInt8 * kPanel * 4;
  }
#if defined(GPT2_LANES_BF16)
  if (form == Form::bf16) {
    repeat<kRowsFloat, kPanelsFloat>(
        broadcast(0.0f), rounds, [](const unsigned char* p) { return load_pairs(reinterpret_cast<const Bf16*>(p)); },
        [](const unsigned char* p) { return reinterpret_cast<const Bf16*>(p); },
        [](const Lanes& sums, const Pairs& w, const Bf16* x) { return dot2(sums, w, x); });
    return rounds * kRowsFloat * kPanelsFloat * kPanel * 2;
  }
#endif
  repeat<kRowsFloat, kPanelsFloat>(
      broadcast(0.0f), rounds, [](const unsigned char* p) { return load(reinterpret_cast<const float*>(p)); },
      [](const unsigned char* p) { float x; return std::memcpy(&x, p, 4), broadcast(x); },
      [](const Lanes& sums, const Lanes& w, const Lanes& x) { return multiply_add(w, x, sums); });
  return rounds * kRowsFloat * kPanelsFloat * kPanel;
}

}  // namespace
}  // namespace gpt2
