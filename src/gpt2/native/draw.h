// The draw of a token: the largest of value + noise, where value is (logit - largest logit) / temperature, or the logit itself at
// temperature 1, and noise is -log(-log u). generation/draws.py defines u, whose 64 bits are a hash of the key and the token.
//
// If the first k bits of u are not all ones, 1 - u >= 2^-k, so the noise is at most -log(1 - u) <= k log 2. So a token whose value
// is more than k log 2 below a score that another has can win only by k ones, and nearly all lose without a logarithm:
//
//   tokens, 32 at a time     a value above level 8, or 8 ones?         the same at 12 and at 16?      value + noise, in double
//   ┌──────────────────┐      yes, in one block of six                                                ┌──────────────┐
//   │ 0 .. 31, 32 .. 63├───────────────────────────────────────────────────────────────────────────────>│ some tens    │──> the largest
//   └──────────────────┘                                                                              └──────────────┘
//
// Logarithms are the C library's, which may differ from NumPy's in the last bit: so may a draw where two scores do.

#pragma once

#include <math.h>   // log alone: a function of C, in no header's inline code

namespace gpt2 {
namespace {

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15u;

// SplitMix64's finaliser, but for its last shift, which leaves the upper 31 bits as they are.
GPT2_INLINE uint64_t mix_most(uint64_t state) {
  state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9u;
  return (state ^ state >> 27) * 0x94D049BB133111EBu;
}

inline double gumbel(uint64_t key, int id) {
  const uint64_t most = mix_most(key + kGamma * (static_cast<uint64_t>(id) + 1));
  const double u = (static_cast<double>((most ^ most >> 31) >> 12) + 0.5) * 2.220446049250313e-16;   // 2^-52
  return -log(-log(u));
}

// Whether the first k bits are ones.
template <int k>
GPT2_INLINE bool has_ones(uint64_t most) { return ~most >> (64 - k) == 0; }

constexpr int kDrawn = 32;   // tokens that are looked at together

bool any_above(const float* x, float level) {
  uint32_t any = 0;
  for (int i = 0; i < kDrawn; ++i) any |= x[i] > level ? ~uint32_t{0} : 0;
  return any != 0;
}

bool any_with_ones(uint64_t begin) {
  uint64_t any = 0;
  for (int i = 0; i < kDrawn; ++i) any |= has_ones<8>(mix_most(begin + kGamma * static_cast<uint64_t>(i))) ? ~uint64_t{0} : 0;
  return any != 0;
}

// Who has the largest score so far; of equal ones the lower id.
struct Contest {
  float largest, temperature;
  uint64_t key;
  double best = -HUGE_VAL;
  int32_t winner = 0;

  void enter(int32_t id, float logit) {
    const float value = temperature == 1.0f ? logit : (logit - largest) / temperature;
    const double score = static_cast<double>(value) + gumbel(key, id);
    if (score < best || (score == best && id > winner)) return;
    best = score;
    winner = id;
  }
};

int32_t draw_among(const int32_t* ids, const float* logits, int count, float temperature, uint64_t key) {
  Contest contest{logits[0], temperature, key};
  for (int i = 0; i < count; ++i) contest.enter(ids[i], logits[i]);
  return contest.winner;
}

int32_t draw(const float* logits, int count, float largest, float temperature, uint64_t key) {
  Contest contest{largest, temperature, key};

  // A score to begin with: the best of some likely tokens.
  const float likely = largest - 3 * temperature;
  for (int first = 0, left = 32; first < count && left > 0; first += kDrawn) {
    const int end = first + kDrawn < count ? first + kDrawn : count;
    if (end - first == kDrawn && !any_above(logits + first, likely)) continue;
    for (int id = first; id < end; ++id) {
      if (logits[id] < likely) continue;
      contest.enter(id, logits[id]);
      --left;
    }
  }

  // The logit that a token must have above to win without k ones; less a little for rounding.
  const double value_of_largest = temperature == 1.0f ? static_cast<double>(largest) : 0.0;
  const auto level_of = [&](int k) {
    return static_cast<float>(largest + (contest.best - value_of_largest - 0.6932 * k) * temperature) - 1e-5f * fabsf(largest);
  };
  const float level_8 = level_of(8), level_12 = level_of(12), level_16 = level_of(16);

  for (int first = 0; first < count; first += kDrawn) {
    const int end = first + kDrawn < count ? first + kDrawn : count;
    const uint64_t begin = key + kGamma * (static_cast<uint64_t>(first) + 1);
    if (end - first == kDrawn && !any_with_ones(begin) && !any_above(logits + first, level_8)) continue;
    uint64_t most[kDrawn];
    for (int i = 0; i < kDrawn; ++i) most[i] = mix_most(begin + kGamma * static_cast<uint64_t>(i));
    for (int id = first; id < end; ++id) {
      const float x = logits[id];
      const uint64_t bits = most[id - first];
      if (!(x > level_8 || has_ones<8>(bits))) continue;
      if ((x > level_12 || has_ones<12>(bits)) && (x > level_16 || has_ones<16>(bits))) contest.enter(id, x);
    }
  }
  return contest.winner;
}

}  // namespace
}  // namespace gpt2
