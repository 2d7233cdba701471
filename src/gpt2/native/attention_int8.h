// Attention of one head over keys and values in int8: all its products are integer sums, exact in any order.
//
//   a page holds 64 positions; for one layer and head, D = head width, D4 and D' = D rounded up to 4 and 16:
//     keys    [D4/4][64][4]   one load = 4 components of 16 keys     behind them 64 floats: a scale for each position
//     values  [64/4][D'][4]   one load = 16 components of 4 values   behind them 64 floats likewise
//
//   score  = (query codes . key codes) * key scale * query scale / sqrt(D)
//   e      = exp(score - max), over the keys up to the row's own position; their sum as in attention.h
//   weight = e * value scale, as 128 * upper + lower with the largest at 127 * 128: both in 0..127
//   output = (128 * (uppers . value codes) + (lowers . value codes)) * largest weight / (127 * 128) / sum of e
//
// Eight-bit weights would lose a long tail of small ones; fourteen bits do not, hence two products with the values.
// A key that a row does not see has weight zero, so all rows of a tile walk the same keys.

#pragma once

namespace gpt2 {
namespace {

constexpr float kLargestWeight = 127.0f * 128.0f;

// Bytes of one head's codes in a page; their scales follow.
inline int key_bytes(int head_width) { return static_cast<int>(round_up(head_width, 4)) * kPage; }
inline int value_bytes(int head_width) { return padded_width(head_width) * kPage; }

// Scales of 16 positions from s on; zeros from `keys` on.
inline Lanes value_scales(const Attend& a, int s, int keys) {
  const unsigned char* scales = a.pages[s / kPage] + a.v_offset + value_bytes(a.head_width);
  return load_first(reinterpret_cast<const float*>(scales) + s % kPage, keys - s, 0.0f);
}

// The rows' queries; their codes are in a.codes, [rows][code_stride].
struct Queries {
  float scales[kMaxAttendRows];
  int32_t sums[kMaxAttendRows];

  explicit Queries(const Attend& a) {
    for (int r = 0; r < a.rows; ++r) {
      const float* q = a.q + r * a.q_stride;
      const RowScale query = row_scale(q, a.head_width);
      scales[r] = query.scale * a.scale;
      Lanes sum = broadcast(0.0f);
      for (int d = 0; d < a.head_width; d += kPanel) sum = add(sum, put_codes(q, a.head_width, d, query.inverse, a.codes + r * a.code_stride + d));
      sums[r] = static_cast<int32_t>(sum_across(sum));
    }
  }
};

inline void prefetch_bytes(const int8_t* p, int bytes) {
  for (int at = 0; at < bytes; at += 64) prefetch(p + at);
}

// Scores of R rows against B blocks of 16 keys of a page. A single row is bound by memory, so it also prefetches the values.
template <int R, int B>
inline void score_codes(const Attend& a, const Queries& q, int row, int page, int block, int ahead) {
  const int8_t* keys = reinterpret_cast<const int8_t*>(a.pages[page] + a.k_offset);
  const float* scales = reinterpret_cast<const float*>(keys + key_bytes(a.head_width)) + block * kPanel;
  const int8_t* values = reinterpret_cast<const int8_t*>(a.pages[page] + a.v_offset);
  if constexpr (R == 1) prefetch_bytes(values + value_bytes(a.head_width) + block * kLine, B * kLine);
  Sums sums[R][B];
  GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = start_sums(q.sums[row + r]);
  for (int d = 0; d < a.head_width; d += 4) {
    Codes key[B];
    GPT2_UNROLL for (int b = 0; b < B; ++b) key[b] = load_weights(keys + d * kPage + (block + b) * 4 * kPanel);
    if constexpr (R == 1) if (d * kPage < ahead) prefetch_bytes(values + d * kPage, 4 * kPage);
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      const Quad four = broadcast_quad(a.codes + (row + r) * a.code_stride + d);
      GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = dot4(sums[r][b], key[b], four);
    }
  }
  float* scores = a.scores + row * a.scores_stride + page * kPage + block * kPanel;
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    GPT2_UNROLL for (int b = 0; b < B; ++b) {
      const Lanes scaled = mul(to_lanes(sums[r][b]), load(scales + b * kPanel));
      store(scores + r * a.scores_stride + b * kPanel, mul(scaled, broadcast(q.scales[row + r])));
    }
  }
}

template <int R>
void score_whole_keys(const Attend& a, const Queries& q, int row) {
  const int keys = a.first_position + row + R;   // up to the last row; the softmax stops each row at its own position
  for (int page = 0; page * kPage < keys; ++page) {
    const int here = keys - page * kPage < kPage ? keys - page * kPage : kPage, blocks = (here + kPanel - 1) / kPanel;
    const int ahead = here * padded_width(a.head_width);
    constexpr int most = R == 1 ? kBlocks : kBlocksAttend, two = most < 2 ? most : 2;   // blocks at once, to hide a sum's latency
    int block = 0;
    for (; block + most <= blocks; block += most) score_codes<R, most>(a, q, row, page, block, ahead);
    for (; block + two <= blocks; block += two) score_codes<R, two>(a, q, row, page, block, ahead);
    for (; block < blocks; ++block) score_codes<R, 1>(a, q, row, page, block, ahead);
  }
}

#if !defined(GPT2_LANES_HALVES)
// 64 shares of the largest weight, rounded, as 128 * upper + lower.
inline void store_halves(int8_t* upper, int8_t* lower, const Lanes (&shares)[kBlocks]) {
  GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) {
    const Lanes whole = round_even(shares[b]);
    const Lanes high = round_even(mul(sub(whole, broadcast(63.5f)), broadcast(1.0f / 128.0f)));   // rounded down
    store_codes(upper + b * kPanel, high);
    store_codes(lower + b * kPanel, multiply_add(high, broadcast(-128.0f), whole));
  }
}
#endif

// The rows' weights; their halves are in a.codes, [rows][code_stride], the lower `code_stride / 2` after the upper.
struct Weights {
  float units[kMaxAttendRows];   // the value of code 1, as a share of the sum
  int keys;                      // of all rows; a row has zeros for keys that it does not see, up to the end of the page
};

// From scores to weights of one row.
inline void weigh_row(const Attend& a, Weights& to, int r) {
  float* scores = a.scores + r * a.scores_stride;
  const int keys = a.first_position + r + 1;
  Lanes top = broadcast(0.0f);
  a.sums[r] = exponentiate(scores, keys, [&](int s, const Lanes& e) { top = max(top, mul(e, value_scales(a, s, keys))); });
  const float largest = max_across(top);
  const bool zero = !(largest > kSmallestMagnitude);
  to.units[r] = (zero ? 0.0f : largest / kLargestWeight) / a.sums[r];

  const Lanes inverse = broadcast(zero ? 0.0f : kLargestWeight / largest);
  int8_t* upper = a.codes + r * a.code_stride;
  for (int page = 0; page < to.keys; page += kPage) {
    Lanes shares[kBlocks];
    GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) {
      const int s = page + b * kPanel;
      shares[b] = broadcast(0.0f);
      if (s >= keys) continue;
      const Lanes exact = mul(mul(load(scores + s), value_scales(a, s, keys)), inverse);
      shares[b] = min(max(exact, broadcast(0.0f)), broadcast(kLargestWeight));   // damaged weights may give NaN
    }
    store_halves(upper + page, upper + a.code_stride / 2 + page, shares);
  }
}

// With the sum of each row's halves, which `start_sums` needs.
struct SummedWeights : Weights {
  int32_t upper_sums[kMaxAttendRows], lower_sums[kMaxAttendRows];

  void weigh(const Attend& a, int r) {
    weigh_row(a, *this, r);
    upper_sums[r] = sum_codes(a.codes + r * a.code_stride);
    lower_sums[r] = sum_codes(a.codes + r * a.code_stride + a.code_stride / 2);
  }

 private:
  int32_t sum_codes(const int8_t* codes) const {
    const int8_t ones[4] = {1, 1, 1, 1};
    Sums sums = start_sums(static_cast<int32_t>(round_up(keys, kPage) / kPanel));
    for (int s = 0; s < keys; s += kPage) sums = dot4(sums, load_weights(codes + s), broadcast_quad(ones));
    return static_cast<int32_t>(sum_across(to_lanes(sums)));
  }
};

// The float values of a row's sums with both halves of its weights.
inline Lanes mixed(const Weights& w, int row, const Sums& upper, const Sums& lower) {
  const Lanes whole = add(mul(to_lanes(upper), broadcast(128.0f)), to_lanes(lower));
  return mul(whole, broadcast(w.units[row]));
}

// Values of R rows for B vectors of 16 components starting at component d.
template <int R, int B>
inline void mix_codes(const Attend& a, const SummedWeights& w, int row, int d) {
  const int width = padded_width(a.head_width);
  Sums upper[R][B], lower[R][B];
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    GPT2_UNROLL for (int b = 0; b < B; ++b) {
      upper[r][b] = start_sums(w.upper_sums[row + r]);
      lower[r][b] = start_sums(w.lower_sums[row + r]);
    }
  }
  for (int page = 0; page * kPage < w.keys; ++page) {
    const int8_t* values = reinterpret_cast<const int8_t*>(a.pages[page] + a.v_offset);
    const int8_t* next_keys = values + value_bytes(a.head_width) + sizeof(float) * kPage;   // the next head's keys follow the values
    const int8_t* codes = a.codes + row * a.code_stride + page * kPage;
    const int keys = w.keys - page * kPage < kPage ? w.keys - page * kPage : kPage;
    if constexpr (R == 1) if (d == 0) prefetch_bytes(next_keys + key_bytes(a.head_width), 4 * keys);
    for (int s = 0; s < keys; s += 4) {
      Codes value[B];
      GPT2_UNROLL for (int b = 0; b < B; ++b) value[b] = load_weights(values + s * width + 4 * (d + b * kPanel));
      if constexpr (R == 1) if (d == 0 && keys == kPage) prefetch_bytes(next_keys + s * width, 4 * width);
      GPT2_UNROLL for (int r = 0; r < R; ++r) {
        const int8_t* four = codes + r * a.code_stride + s;
        const Quad high = broadcast_quad(four), low = broadcast_quad(four + a.code_stride / 2);
        GPT2_UNROLL for (int b = 0; b < B; ++b) {
          upper[r][b] = dot4(upper[r][b], value[b], high);
          lower[r][b] = dot4(lower[r][b], value[b], low);
        }
      }
    }
    if constexpr (R == 1) {   // a partial page has as many rows of keys, but shorter ones
      for (int c = 0; d == 0 && keys < kPage && c < a.head_width; c += 4) prefetch_bytes(next_keys + c * kPage, 4 * keys);
    }
  }
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    GPT2_UNROLL for (int b = 0; b < B; ++b) {
      const int component = d + b * kPanel;
      store_first(a.out + (row + r) * a.out_stride + component, mixed(w, row + r, upper[r][b], lower[r][b]), a.head_width - component);
    }
  }
}

// A row has two sums per vector, so half as many rows run together as for scores.
constexpr int kRowsMix = kRowsAttend / 2;

template <int R>
void mix_rows(const Attend& a, const SummedWeights& w, int row, int rows) {
  if constexpr (R > 1) {
    if (rows < R) return mix_rows<R - 1>(a, w, row, rows);
  }
  constexpr int together = R == 1 ? 2 * kBlocksAttend : kBlocksAttend;
  int d = 0;
  for (; d + together * kPanel <= a.head_width; d += together * kPanel) mix_codes<R, together>(a, w, row, d);
  for (; d < a.head_width; d += kPanel) mix_codes<R, 1>(a, w, row, d);
}

template <int R>
void score_rows(const Attend& a, const Queries& q, int row) {
  if constexpr (R > 1) {
    if (a.rows - row < R) return score_rows<R - 1>(a, q, row);
  }
  score_whole_keys<R>(a, q, row);
}

void attend_int8(const Attend& a) {
  const Queries q(a);
  for (int row = 0; row < a.rows; row += kRowsAttend) score_rows<kRowsAttend>(a, q, row);
  SummedWeights w;
  w.keys = static_cast<int>(round_up(a.first_position + a.rows, kPanel));
  for (int r = 0; r < a.rows; ++r) w.weigh(a, r);
  for (int row = 0; row < a.rows; row += kRowsMix) mix_rows<kRowsMix>(a, w, row, a.rows - row);
}

// Values of R positions that share their lines; returns 0, or NaN if a number is not finite.
template <int R>
inline float store_values(const float* v, int64_t stride, int head_width, int8_t* values, float* scales, int key) {
  float inverses[R], spoiled = 0.0f;
  for (int r = 0; r < R; ++r) {
    const RowScale row = row_scale(v + r * stride, head_width);
    inverses[r] = row.inverse;
    scales[key + r] = row.scale;
    spoiled += 0.0f * row.scale;
  }
  int8_t* lines = values + key / 4 * 4 * padded_width(head_width) + key % 4;
  for (int d = 0; d < head_width; d += kPanel) {
    int8_t codes[R][kPanel];
    for (int r = 0; r < R; ++r) put_codes(v + r * stride, head_width, d, inverses[r], codes[r]);
    for (int i = 0; i < kPanel; ++i) GPT2_UNROLL for (int r = 0; r < R; ++r) lines[4 * (d + i) + r] = codes[r][i];
  }
  return spoiled;
}

// False if a number is not finite.
bool store_positions_int8(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page) {
  int8_t* keys = reinterpret_cast<int8_t*>(k_page);
  int8_t* values = reinterpret_cast<int8_t*>(v_page);
  float* key_scales = reinterpret_cast<float*>(keys + key_bytes(head_width));
  float* value_scales = reinterpret_cast<float*>(values + value_bytes(head_width));
  float spoiled = 0.0f;
  for (int r = 0; r < rows; ++r) {
    int8_t codes[kPanel];
    const RowScale row = row_scale(k + r * stride, head_width);
    key_scales[key + r] = row.scale;
    spoiled += 0.0f * row.scale;
    for (int d = 0; d < head_width; d += kPanel) {
      put_codes(k + r * stride, head_width, d, row.inverse, codes);
      for (int i = 0; i < kPanel && d + i < head_width; i += 4) std::memcpy(keys + (d + i) * kPage + 4 * (key + r), codes + i, 4);
    }
  }
  for (int r = 0; r < rows;) {   // four positions that share lines are written together
    if ((key + r) % 4 == 0 && r + 4 <= rows) {
      spoiled += store_values<4>(v + r * stride, stride, head_width, values, value_scales, key + r);
      r += 4;
    } else {
      spoiled += store_values<1>(v + r * stride, stride, head_width, values, value_scales, key + r);
      r += 1;
    }
  }
  return spoiled == 0.0f;
}

}  // namespace
}  // namespace gpt2
