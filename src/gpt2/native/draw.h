// The draw of a token: the largest value + noise, where value is (logit - largest logit) / temperature, or the logit itself at
// temperature 1, and noise is -log(-log u). generation/draws.py defines u, whose 64 bits are a hash of the key and the token.
// The tokens that top-p and min-p keep (generation/filters.py defines both) are listed first (below).
//
// If the first k bits of u are not all ones, 1 - u >= 2^-k, so the noise is at most -log(1 - u) <= k log 2. So a token whose value
// is more than k log 2 below another token's score can win only with k ones, and nearly all lose without a logarithm:
//
//   tokens, 32 at a time     a value above level 8, or 8 ones?         the same at 12 and at 16?      value + noise, in double
//   ┌──────────────────┐      yes, in one block of six                                                ┌──────────────┐
//   │ 0 .. 31, 32 .. 63├───────────────────────────────────────────────────────────────────────────────>│ some tens    │──> the largest
//   └──────────────────┘                                                                              └──────────────┘
//
// Logarithms come from the C library and exponentials from pointwise.h. Both may differ from NumPy's in the last bits, and so may a
// draw between two nearly equal scores, or at the boundary of top-p.

#pragma once

#include <math.h>   // only for log, a C function without inline code in a header

namespace gpt2 {
namespace {

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15u;

// SplitMix64's finaliser without its last shift, which does not change the upper 31 bits.
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

bool any_above(const float* x, float level) {
  uint32_t any = 0;
  for (int i = 0; i < kShortlist; ++i) any |= x[i] > level ? ~uint32_t{0} : 0;
  return any != 0;
}

bool any_equal(const float* x, float value) {
  uint32_t any = 0;
  for (int i = 0; i < kShortlist; ++i) any |= x[i] == value ? ~uint32_t{0} : 0;
  return any != 0;
}

// The first token with that logit; token 0 if none has it.
int32_t first_with(float value, const float* logits, int count) {
  int32_t id = 0;
  while (id + kShortlist <= count && !any_equal(logits + id, value)) id += kShortlist;
  for (; id < count; ++id) if (logits[id] == value) return id;
  return 0;
}

// The token with the largest score so far; of equal ones, the lower id.
struct Contest {
  float largest, temperature;
  uint64_t key;
  double best = -HUGE_VAL;
  int32_t winner = 0;

  float value_of(float logit) const { return temperature == 1.0f ? logit : (logit - largest) / temperature; }

  void enter(int32_t id, float logit) {
    const double score = static_cast<double>(value_of(logit)) + gumbel(key, id);
    if (score < best || (score == best && id > winner)) return;
    best = score;
    winner = id;
  }
};

// Token i of `count` has id id_of(i) and logit logits[i].
template <class IdOf>
int32_t draw_from(const IdOf& id_of, const float* logits, int count, Contest contest) {
  // An initial score: the best of a few likely tokens.
  const float largest = contest.largest, temperature = contest.temperature, likely = largest - 3 * temperature;
  for (int first = 0, left = 32; first < count && left > 0; first += kShortlist) {
    const int end = first + kShortlist < count ? first + kShortlist : count;
    if (end - first == kShortlist && !any_above(logits + first, likely)) continue;
    for (int i = first; i < end; ++i) {
      if (logits[i] < likely) continue;
      contest.enter(id_of(i), logits[i]);
      --left;
    }
  }

  // A token below this logit can win only with k ones; slightly lowered for rounding.
  const double value_of_largest = contest.value_of(largest);
  const auto level_of = [&](int k) {
    return static_cast<float>(largest + (contest.best - value_of_largest - 0.6932 * k) * temperature) - 1e-5f * fabsf(largest);
  };
  float level_8, level_12, level_16;
  double reached;   // the score behind these levels; in a flat row the first is poor, so they must rise with it
  const auto rise = [&] {
    reached = contest.best;
    level_8 = level_of(8);
    level_12 = level_of(12);
    level_16 = level_of(16);
  };
  rise();

  for (int first = 0; first < count; first += kShortlist) {
    if (contest.best > reached) rise();
    const int here = first + kShortlist < count ? kShortlist : count - first;
    uint64_t most[kShortlist], any = 0;
    const auto mix = [&](int i) {
      most[i] = mix_most(contest.key + kGamma * (static_cast<uint64_t>(id_of(first + i)) + 1));
      any |= has_ones<8>(most[i]) ? ~uint64_t{0} : 0;
    };
    if (here == kShortlist) {
      for (int i = 0; i < kShortlist; ++i) mix(i);
      if (any == 0 && !any_above(logits + first, level_8)) continue;
    } else {
      for (int i = 0; i < here; ++i) mix(i);
    }
    for (int i = 0; i < here; ++i) {
      const float x = logits[first + i];
      if (!(x > level_8 || has_ones<8>(most[i]))) continue;
      if ((x > level_12 || has_ones<12>(most[i])) && (x > level_16 || has_ones<16>(most[i]))) contest.enter(id_of(first + i), x);
    }
  }
  return contest.winner;
}

// ---- top-p and min-p ----
//
//   a row of logits ──> those above a level below which no token can be kept ──> the bound that leaves enough ──> the draw
//                       mostly hundreds: id, logit, below, weight                found by bisection of its bits
//
// `below` is the distance of a token's value below the largest, and its weight is e^-below. The bits of a non-negative float grow with
// its value, so bisecting the bits some 30 times finds the smallest bound within which the weights reach the wanted total, without a
// sort.

float largest_of(const float* x, int count) {
  Lanes largest = broadcast(kLowest);
  for (int i = 0; i < count; i += kPanel) largest = max(largest, load_first(x + i, count - i, kLowest));
  return max_across(largest);
}

Lanes below(const Lanes& logits, const Contest& contest) {
  return div(sub(broadcast(contest.largest), logits), broadcast(contest.temperature));
}
Lanes weight(const Lanes& below) { return exponential(sub(broadcast(0.0f), below)); }

// The sum of lanes_from(0), lanes_from(16), ... below count. Float sums are short, so the result matches the definition's doubles.
template <class F>
double sum_of(int count, const F& lanes_from) {
  constexpr int block = 16 * kPanel;
  double total = 0;
  for (int first = 0; first < count; first += block) {
    Lanes sum = broadcast(0.0f);
    for (int i = first; i < first + block && i < count; i += kPanel) sum = add(sum, lanes_from(i));
    total += static_cast<double>(sum_across(sum));
  }
  return total;
}

double total_weight(const float* logits, int count, const Contest& contest) {
  return sum_of(count, [&](int i) { return only_first(weight(below(load_first(logits + i, count - i, kLowest), contest)), count - i); });
}

// Lists the tokens whose logit is not below the level.
int list_from(float level, const float* logits, int count, const Shortlist& list) {
  int n = 0;
  for (int first = 0; first < count; first += kShortlist) {
    const int end = first + kShortlist < count ? first + kShortlist : count;
    if (end - first == kShortlist && !any_above(logits + first, level)) continue;
    for (int id = first; id < end; ++id) {
      list.ids[n] = id;
      list.logits[n] = logits[id];
      n += !(logits[id] < level);
    }
  }
  return n;
}

double weight_within(const Shortlist& list, int count, float bound) {
  const Lanes most = broadcast(bound), nothing = broadcast(0.0f);
  return sum_of(count, [&](int i) { return where_less(most, load(list.below + i), nothing, load(list.weights + i)); });
}

// Keeps the fewest most likely tokens that weigh `enough` together, at least one; ties go to the earlier.
int keep_enough(double enough, const Shortlist& list, int count, const Contest& contest) {
  int end = 0;
  for (; end < count; end += kPanel) {
    const Lanes far = below(load_first(list.logits + end, count - end, kLowest), contest);
    store(list.below + end, far);
    store(list.weights + end, weight(far));
  }
  for (int i = count; i < end; ++i) list.weights[i] = 0.0f;
  const auto number = [](uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  };
  uint32_t least = 0, most = 0x7f800000u;   // 0 to infinity
  while (least < most) {
    const uint32_t middle = least + (most - least) / 2;
    if (weight_within(list, count, number(middle)) < enough) {
      least = middle + 1;
    } else {
      most = middle;
    }
  }
  const float bound = number(least);
  double reached = least == 0 ? 0.0 : weight_within(list, count, number(least - 1));
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    if (list.below[i] > bound) continue;
    if (list.below[i] == bound && kept > 0 && !(reached < enough)) continue;
    if (list.below[i] == bound) reached += static_cast<double>(list.weights[i]);
    list.ids[kept] = list.ids[i];
    list.logits[kept++] = list.logits[i];
  }
  return kept;
}

int keep_above(float value, const Shortlist& list, int count, const Contest& contest) {
  int kept = 0;
  for (int i = 0; i < count; ++i) {
    list.ids[kept] = list.ids[i];
    list.logits[kept] = list.logits[i];
    kept += contest.value_of(list.logits[i]) >= value;
  }
  return kept;
}

int32_t draw(const Drawing& from) {
  const Shortlist& list = from.list;
  const float* logits = from.logits ? from.logits : list.logits;
  int count = from.count;
  const Contest contest{largest_of(logits, count), from.temperature, from.key};
  if (from.temperature == 0) return first_with(contest.largest, logits, count);   // no token if penalties have made all logits minus infinity
  const bool shortened = from.top_p < 1 || from.min_p > 0;
  if (shortened) {
    const double total = from.top_p < 1 ? total_weight(logits, count, contest) : 0;
    const double enough = from.top_p * total;
    const auto list_weights_from = [&](double least) {
      const float level = contest.largest + from.temperature * static_cast<float>(log(least));
      return list_from(level - 1e-5f * (fabsf(contest.largest) + from.temperature), logits, from.count, list);
    };
    if (from.logits && from.top_p < 1) {
      // Tokens lighter than the second level weigh less than 1 - top_p together. Usually those above the first suffice.
      count = list_weights_from(1e-3);
      if (total_weight(list.logits, count, contest) < enough) count = list_weights_from((1 - from.top_p) * total / from.count);
    } else if (from.logits) {
      count = list_weights_from(from.min_p);
    }
    if (from.top_p < 1) count = keep_enough(enough, list, count, contest);
    if (from.min_p > 0) count = keep_above(contest.value_of(contest.largest) + static_cast<float>(log(from.min_p)), list, count, contest);
  }
  if (from.logits && !shortened) return draw_from([](int i) { return i; }, logits, count, contest);
  return draw_from([ids = list.ids](int i) { return ids[i]; }, list.logits, count, contest);
}

}  // namespace
}  // namespace gpt2
