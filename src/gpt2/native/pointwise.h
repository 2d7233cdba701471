// Operations on one row of numbers: exp and gelu, layer norm, quantising, the sums of a softmax.
//
// Every sum runs over sixteen lanes in a fixed order and ends in the same tree, so a row's bits depend only on the
// row. Rows may have any width: the last, partial vector goes through a small buffer.

#pragma once

#include <math.h>   // only for sqrtf, one instruction, without the templates of <cmath>

namespace gpt2 {
namespace {

// The first `count` of sixteen numbers, and `fill` for the others.
inline Lanes load_first(const float* p, int count, float fill) {
  if (count >= kPanel) return load(p);
#if defined(GPT2_LANES_MASKS)
  return load_masked(p, count, fill);
#else
  float buffer[kPanel];
  for (int i = 0; i < kPanel; ++i) buffer[i] = i < count ? p[i] : fill;
  return load(buffer);
#endif
}

inline void store_first(float* p, const Lanes& x, int count) {
  if (count >= kPanel) return store(p, x);
#if defined(GPT2_LANES_MASKS)
  store_masked(p, x, count);
#else
  float buffer[kPanel];
  store(buffer, x);
  for (int i = 0; i < count; ++i) p[i] = buffer[i];
#endif
}

// The first `count` of sixteen, and zeros for the others.
inline Lanes only_first(const Lanes& x, int count) {
  if (count >= kPanel) return x;
  float buffer[kPanel];
  store(buffer, x);
  return load_first(buffer, count, 0.0f);
}

constexpr float kLowest = -3.402823466e38f;   // the lowest float, to start a maximum

// e^x for x in -87..88, clamped outside: x = n ln 2 + r with |r| <= ln(2) / 2, and a polynomial for e^r.
// Coefficients: Cephes expf; the error is below 2 units in the last place.
inline Lanes exponential(Lanes x) {
  x = min(max(x, broadcast(-87.0f)), broadcast(88.0f));
  const Lanes n = round_even(mul(x, broadcast(1.44269504f)));
  Lanes r = multiply_add(n, broadcast(-0.693359375f), x);   // ln 2 in two parts, the first exact in few bits
  r = multiply_add(n, broadcast(2.12194440e-4f), r);
  Lanes p = broadcast(1.9875691500e-4f);
  p = multiply_add(p, r, broadcast(1.3981999507e-3f));
  p = multiply_add(p, r, broadcast(8.3334519073e-3f));
  p = multiply_add(p, r, broadcast(4.1665795894e-2f));
  p = multiply_add(p, r, broadcast(1.6666665459e-1f));
  p = multiply_add(p, r, broadcast(5.0000001201e-1f));
  p = multiply_add(p, mul(r, r), add(r, broadcast(1.0f)));
  return times_power_of_two(p, n);
}

// x (1 + tanh u) / 2 = x / (1 + e^-2u), with u = sqrt(2 / pi) (x + 0.044715 x^3): GPT-2's gelu.
inline Lanes gelu(const Lanes& x) {
  const Lanes cubic = multiply_add(mul(mul(x, x), x), broadcast(0.044715f), x);
  const Lanes power = mul(cubic, broadcast(-2.0f * 0.7978845608f));
  return div(x, add(broadcast(1.0f), exponential(power)));
}

void layer_norm(const float* x, const float* gain, const float* bias, int width, float epsilon, float* y) {
  Lanes sum = broadcast(0.0f);
  for (int d = 0; d < width; d += kPanel) sum = add(sum, load_first(x + d, width - d, 0.0f));
  const float mean = sum_across(sum) / static_cast<float>(width);

  Lanes squares = broadcast(0.0f);
  for (int d = 0; d < width; d += kPanel) {
    const Lanes centred = sub(load_first(x + d, width - d, mean), broadcast(mean));
    squares = multiply_add(centred, centred, squares);
  }
  const float variance = sum_across(squares) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(variance + epsilon);

  for (int d = 0; d < width; d += kPanel) {
    const Lanes centred = sub(load_first(x + d, width - d, mean), broadcast(mean));
    const Lanes scaled = mul(centred, broadcast(scale));
    const Lanes g = load_first(gain + d, width - d, 0.0f), b = load_first(bias + d, width - d, 0.0f);
    store_first(y + d, multiply_add(scaled, g, b), width - d);
  }
}

// The largest magnitude of numbers, and 0, or NaN if one of them is not finite, since a maximum may lose a NaN.
struct Magnitude {
  Lanes largest = broadcast(0.0f), spoiled = broadcast(0.0f);

  void see(const Lanes& x) {
    largest = max(largest, absolute(x));
    spoiled = multiply_add(x, broadcast(0.0f), spoiled);
  }
};

// A row with a smaller largest magnitude counts as all zeros, so that 127 / magnitude stays finite.
constexpr float kSmallestMagnitude = 1e-30f;

// The value of code 1 in a row, NaN if the row is not finite; and the factor that turns its numbers into codes.
struct RowScale { float scale, inverse; };

inline RowScale row_scale(const float* x, int width) {
  Magnitude seen;
  for (int k = 0; k < width; k += kPanel) seen.see(load_first(x + k, width - k, 0.0f));
  const float magnitude = max_across(seen.largest);
  const bool zero = !(magnitude > kSmallestMagnitude);
  return {(zero ? 0.0f : magnitude / 127.0f) + sum_across(seen.spoiled), zero ? 0.0f : 127.0f / magnitude};
}

// Codes of the 16 numbers from k on, zeros past the last; returns them as floats.
inline Lanes put_codes(const float* x, int width, int k, float inverse, int8_t* to) {
  const Lanes exact = mul(load_first(x + k, width - k > 0 ? width - k : 0, 0.0f), broadcast(inverse));
  const Lanes rounded = min(max(round_even(exact), broadcast(-127.0f)), broadcast(127.0f));
  store_codes(to, rounded);
  return rounded;
}

// Per row: code = round(x * (127 / m)), half to even, with m = max|x|; value = code * (m / 127). Sums of codes are
// integers below 2^24 (131,072 * 127), so they are exact in floats. A row that is not finite gets scale NaN, and so does
// every product with it.
void quantise_row(const float* x, int width, int padded, int8_t* codes, float* scale, int32_t* code_sum, int32_t* group_offsets) {
  const RowScale row = row_scale(x, width);
  *scale = row.scale;
  Lanes total = broadcast(0.0f);
  for (int k = 0; k < padded; k += kGroup) {
    const Lanes first = put_codes(x, width, k, row.inverse, codes + k);
    const Lanes second = put_codes(x, width, k + kPanel, row.inverse, codes + k + kPanel);
    const Lanes both = add(first, second);
    total = add(total, both);
    if (group_offsets) group_offsets[k / kGroup] = group_offset(static_cast<int32_t>(sum_across(both)), codes + k);
  }
  *code_sum = static_cast<int32_t>(sum_across(total));
}

// To nearest, halves to even; NaN stays NaN.
inline Bf16 round_to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

#if defined(GPT2_LANES_BF16)
void round_row(const float* x, int width, int padded, Bf16* rounded) {
  for (int k = 0; k < padded; k += kPanel) store(rounded + k, load_first(x + k, width - k, 0.0f));
}
constexpr auto kRoundRow = round_row;
#else
constexpr void (*kRoundRow)(const float*, int, int, Bf16*) = nullptr;
#endif

// Whether all are finite, and their differences too, so that the statistics below are finite.
bool is_finite(const float* x, int count) {
  Lanes top = broadcast(kLowest), bottom = broadcast(-kLowest), spoiled = broadcast(0.0f);   // a maximum may lose a NaN
  for (int i = 0; i < count; i += kPanel) {
    const Lanes here = load_first(x + i, count - i, x[0]);
    top = max(top, here);
    bottom = min(bottom, here);
    spoiled = multiply_add(here, broadcast(0.0f), spoiled);
  }
  const float least = -max_across(sub(broadcast(0.0f), bottom));
  const float apart = max_across(top) - least + sum_across(spoiled);
  return apart - apart == 0.0f;
}

RowStatistics row_statistics(const float* x, int count) {
  Lanes top = broadcast(kLowest);
  for (int i = 0; i < count; i += kPanel) top = max(top, load_first(x + i, count - i, kLowest));
  const float largest = max_across(top);

  // Sum in blocks: thousands of unlikely tokens, each lost beside a likely one, matter together.
  constexpr int block = 32 * kPanel;
  Lanes sum = broadcast(0.0f), weighted = broadcast(0.0f);
  for (int begin = 0; begin < count; begin += block) {
    const int end = count - begin < block ? count : begin + block;
    Lanes block_sum = broadcast(0.0f), block_weighted = broadcast(0.0f);
    for (int i = begin; i < end; i += kPanel) {
      const Lanes below = sub(load_first(x + i, count - i, largest), broadcast(largest));
      const Lanes e = only_first(exponential(below), count - i);
      block_sum = add(block_sum, e);
      block_weighted = multiply_add(e, below, block_weighted);
    }
    sum = add(sum, block_sum);
    weighted = add(weighted, block_weighted);
  }
  return {largest, sum_across(sum), sum_across(weighted)};
}

}  // namespace
}  // namespace gpt2
