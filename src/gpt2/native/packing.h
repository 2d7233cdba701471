// Packing: sixteen columns of floats become one panel of a weight form. The layouts are drawn in dense_*.h.
//
// Lanes are outputs, and an output's numbers depend only on its own column. Packing uses only additions,
// multiplications and roundings in a fixed order, so every level packs the same bits, and forms.py can define them in NumPy.

#pragma once

namespace gpt2 {
namespace {

inline Magnitude magnitudes(const float* panel_K16, int begin, int end) {
  Magnitude seen;
  for (int k = begin; k < end; ++k) seen.see(load(panel_K16 + k * kPanel));
  return seen;
}

// A scale per output: zero if its weights are, NaN if one is not finite, so that its results are NaN too.
inline Lanes row_scales_of(const Magnitude& seen, const Lanes& scale) {
  return add(where_less(broadcast(kSmallestMagnitude), seen.largest, scale, broadcast(0.0f)), seen.spoiled);
}

// numerator / x, or 0 if x is too small to divide by.
inline Lanes safe_ratio(float numerator, const Lanes& x) {
  const Lanes zero = broadcast(0.0f);
  return where_less(broadcast(kSmallestMagnitude), x, div(broadcast(numerator), x), zero);
}

inline Lanes clamp_round(const Lanes& x, float low, float high) {
  return min(max(round_even(x), broadcast(low)), broadcast(high));
}

void pack_bf16(const float* panel_K16, int padded, Bf16* out) {
  for (int k = 0; k < padded; ++k) {
    for (int o = 0; o < kPanel; ++o) out[(k / 2) * 2 * kPanel + 2 * o + k % 2] = round_to_bf16(panel_K16[k * kPanel + o]);
  }
}

void pack_int8(const float* panel_K16, int inputs, int padded, int8_t* out, float* row_scales) {
  const Magnitude seen = magnitudes(panel_K16, 0, inputs);
  const Lanes inverse = safe_ratio(127.0f, seen.largest);
  store(row_scales, row_scales_of(seen, div(seen.largest, broadcast(127.0f))));
  for (int k = 0; k < padded; ++k) {
    float codes[kPanel] = {};
    if (k < inputs) store(codes, clamp_round(mul(load(panel_K16 + k * kPanel), inverse), -127.0f, 127.0f));
    int8_t* to = out + (k / 4) * 4 * kPanel + k % 4;
    for (int o = 0; o < kPanel; ++o) to[4 * o] = static_cast<int8_t>(static_cast<int32_t>(codes[o]));
  }
}

// Candidates for a group's integer scale: those that put its largest weight at one of these codes. Beyond 7 the largest
// weights are clipped, which pays if the others gain more.
constexpr float kLargestCodes[] = {6.5f, 7.0f, 7.4f, 7.8f, 8.2f, 8.6f, 9.1f, 9.7f};

// Squared error of a group, per output, at the given float scale.
inline Lanes group_error(const float* group_K16, int inputs, const Lanes& scale, const Lanes& inverse) {
  Lanes error = broadcast(0.0f);
  for (int k = 0; k < inputs; ++k) {
    const Lanes w = load(group_K16 + k * kPanel);
    const Lanes miss = sub(w, mul(clamp_round(mul(w, inverse), -8.0f, 7.0f), scale));
    error = add(error, mul(miss, miss));
  }
  return error;
}

void pack_int4(const float* panel_K16, int inputs, int padded, uint8_t* out, float* row_scales) {
  // The largest group scale of a row puts its largest weight at code 6.5: that becomes 127.
  const Magnitude seen = magnitudes(panel_K16, 0, inputs);
  store(row_scales, row_scales_of(seen, div(div(seen.largest, broadcast(kLargestCodes[0])), broadcast(127.0f))));
  const Lanes row_inverse = safe_ratio(1.0f, load(row_scales));

  for (int begin = 0; begin < padded; begin += kGroup) {
    const float* group_K16 = panel_K16 + begin * kPanel;
    const int count = inputs - begin < kGroup ? inputs - begin : kGroup;
    const Lanes group_largest = mul(magnitudes(panel_K16, begin, begin + count).largest, row_inverse);
    Lanes best = broadcast(1.0f), best_inverse = broadcast(0.0f), least = broadcast(-kLowest);
    for (const float code : kLargestCodes) {
      const Lanes scale = clamp_round(div(group_largest, broadcast(code)), 1.0f, 127.0f);
      const Lanes step = mul(scale, load(row_scales)), inverse = safe_ratio(1.0f, step);
      const Lanes error = group_error(group_K16, count, step, inverse);
      best = where_less(error, least, scale, best);
      best_inverse = where_less(error, least, inverse, best_inverse);
      least = min(error, least);
    }
    float whole[kPanel];
    store(whole, best);
    const int group = begin / kGroup;
    for (int o = 0; o < kPanel; ++o) out[MatrixView::scales_at(group) + o] = static_cast<uint8_t>(whole[o]);

    for (int k = 0; k < kGroup; ++k) {
      float codes[kPanel] = {};
      if (k < count) store(codes, clamp_round(mul(load(group_K16 + k * kPanel), best_inverse), -8.0f, 7.0f));
      uint8_t* to = out + MatrixView::codes_at(group) + k / 8 * kLine + k % 4;
      const int shift = k % 8 < 4 ? 0 : 4;
      for (int o = 0; o < kPanel; ++o) {
        const int code = static_cast<int32_t>(codes[o]) + 8;
        to[4 * o] = static_cast<uint8_t>(shift ? to[4 * o] | (code << 4) : code);   // the first write overwrites old contents
      }
    }
  }
}

void pack_panel(Form form, const float* panel_K16, int inputs, int padded, void* weights, float* row_scales) {
  switch (form) {
    case Form::fp32: std::memcpy(weights, panel_K16, sizeof(float) * static_cast<size_t>(inputs) * kPanel); return;
    case Form::bf16: return pack_bf16(panel_K16, padded, static_cast<Bf16*>(weights));
    case Form::int8: return pack_int8(panel_K16, inputs, padded, static_cast<int8_t*>(weights), row_scales);
    case Form::int4: return pack_int4(panel_K16, inputs, padded, static_cast<uint8_t*>(weights), row_scales);
  }
}

}  // namespace
}  // namespace gpt2
