// Attention of one head over its pages of keys and values, and writing into those pages.
//
//   a page holds 64 positions; for one layer and head, D = head width, D' = D rounded up to 16:
//     keys    [D][64]     one load = the same component of 16 keys: scores of 16 keys grow side by side (fp16: room for an even D)
//     values  [64][D']    one load = 16 components of one value; the padding holds zeros
//
// A score is a sum over components in order; an output is a sum over keys in order, divided by the sum of the
// exponentials, which runs over 16 lanes by key position. Nothing depends on how many rows are computed at once, so
// prefill and decode give the same bits. Keys and values are read as they are stored.

#pragma once

namespace gpt2 {
namespace {

constexpr int kBlocks = kPage / kPanel;   // blocks of 16 keys in a page

// Prefetches the first `count` of 64 stored numbers.
template <class Stored>
inline void prefetch_row(const Stored* p, int count) {
  constexpr int line = 64 / sizeof(Stored);
  GPT2_UNROLL for (int first = 0; first < kPage; first += line) if (first < count) prefetch(p + first);
}

// Scores of R rows against B blocks of 16 keys. A single row is bound by memory, so it also prefetches the values.
template <int R, int B, class Stored>
inline void score_blocks(const Attend& a, int row, const Stored* keys, float* scores, const Stored* values, int value_count) {
  Lanes sums[R][B];
  GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = broadcast(0.0f);
  for (int d = 0; d < a.head_width; ++d) {
    Lanes key[B];
    GPT2_UNROLL for (int b = 0; b < B; ++b) key[b] = load(keys + d * kPage + b * kPanel);
    if constexpr (R == 1) if (d * kPage < value_count) prefetch_row(values + d * kPage, kPage);
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      const Lanes q = broadcast(a.q[(row + r) * a.q_stride + d]);
      GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = multiply_add(key[b], q, sums[r][b]);
    }
  }
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    GPT2_UNROLL for (int b = 0; b < B; ++b) store(scores + (row + r) * a.scores_stride + b * kPanel, mul(sums[r][b], broadcast(a.scale)));
  }
}

template <int R, class Stored>
void score_keys(const Attend& a, int row) {
  const int keys = a.first_position + row + R;   // up to the last row; the softmax stops each row at its own position
  for (int page = 0; page * kPage < keys; ++page) {
    const Stored* stored = reinterpret_cast<const Stored*>(a.pages[page] + a.k_offset);
    const Stored* values = reinterpret_cast<const Stored*>(a.pages[page] + a.v_offset);
    float* scores = a.scores + page * kPage;
    const int here = keys - page * kPage < kPage ? keys - page * kPage : kPage, blocks = (here + kPanel - 1) / kPanel;
    const int value_count = here * padded_width(a.head_width);
    constexpr int most = R == 1 ? kBlocks : kBlocksAttend, two = most < 2 ? most : 2;   // blocks at once, to hide a sum's latency
    int b = 0;
    for (; b + most <= blocks; b += most) score_blocks<R, most>(a, row, stored + b * kPanel, scores + b * kPanel, values, value_count);
    for (; b + two <= blocks; b += two) score_blocks<R, two>(a, row, stored + b * kPanel, scores + b * kPanel, values, value_count);
    for (; b < blocks; ++b) score_blocks<R, 1>(a, row, stored + b * kPanel, scores + b * kPanel, values, value_count);
  }
}

// exp(score - max) in place, zero past the last key; returns their sum, NaN if a score is not finite. Calls see(s, e) with
// the 16 that begin at key s.
template <class See>
inline float exponentiate(float* scores, int keys, const See& see) {
  Lanes top = broadcast(kLowest), sum = broadcast(0.0f);
  for (int s = 0; s < keys; s += kPanel) {
    const Lanes score = load_first(scores + s, keys - s, kLowest);
    top = max(top, score);
    sum = multiply_add(score, broadcast(0.0f), sum);   // exp would hide NaN and infinity
  }
  const Lanes largest = broadcast(max_across(top));
  for (int s = 0; s < keys; s += kPanel) {
    const Lanes e = only_first(exponential(sub(load(scores + s), largest)), keys - s);
    store(scores + s, e);
    sum = add(sum, e);
    see(s, e);
  }
  return sum_across(sum);
}

// Values of R rows for B vectors of 16 components starting at component d. Keys that all rows see are read once for
// all; then each row continues alone to its own position.
template <int R, int B, class Stored>
inline void mix_components(const Attend& a, int row, int d) {
  const int width = padded_width(a.head_width), shared = a.first_position + row + 1;
  Lanes sums[R][B];
  GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = broadcast(0.0f);
  for (int page = 0; page * kPage < shared; ++page) {
    const Stored* values = reinterpret_cast<const Stored*>(a.pages[page] + a.v_offset) + d;
    const float* weights = a.scores + row * a.scores_stride + page * kPage;
    const Stored* next_keys = values + kPage * width;   // the next head's keys follow the values
    const int keys = shared - page * kPage < kPage ? shared - page * kPage : kPage;
    for (int s = 0; s < keys; ++s) {
      if constexpr (R == 1) if (keys == kPage) prefetch_row(next_keys + s * kPage, kPage);
      Lanes value[B];
      GPT2_UNROLL for (int b = 0; b < B; ++b) value[b] = load(values + s * width + b * kPanel);
      GPT2_UNROLL for (int r = 0; r < R; ++r) {
        const Lanes weight = broadcast(weights[r * a.scores_stride + s]);
        GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = multiply_add(value[b], weight, sums[r][b]);
      }
    }
    if constexpr (R == 1) {   // a partial page has as many rows of keys, but shorter ones
      for (int c = 0; keys < kPage && c < a.head_width; ++c) prefetch_row(next_keys + c * kPage, keys);
    }
  }
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    for (int s = shared; s < shared + r; ++s) {
      const Stored* value = reinterpret_cast<const Stored*>(a.pages[s / kPage] + a.v_offset) + (s % kPage) * width + d;
      const Lanes weight = broadcast(a.scores[(row + r) * a.scores_stride + s]);
      GPT2_UNROLL for (int b = 0; b < B; ++b) sums[r][b] = multiply_add(load(value + b * kPanel), weight, sums[r][b]);
    }
    GPT2_UNROLL for (int b = 0; b < B; ++b) {
      const int component = d + b * kPanel;
      store_first(a.out + (row + r) * a.out_stride + component, div(sums[r][b], broadcast(a.sums[row + r])), a.head_width - component);
    }
  }
}

template <int R, class Stored>
void attend_rows(const Attend& a, int row) {
  score_keys<R, Stored>(a, row);
  for (int r = row; r < row + R; ++r) a.sums[r] = exponentiate(a.scores + r * a.scores_stride, a.first_position + r + 1, [](int, const Lanes&) {});
  constexpr int together = R == 1 ? 4 : kBlocksAttend;
  int d = 0;
  for (; d + together * kPanel <= a.head_width; d += together * kPanel) mix_components<R, together, Stored>(a, row, d);
  for (; d < a.head_width; d += kPanel) mix_components<R, 1, Stored>(a, row, d);
}

template <int R, class Stored>
void attend_up_to(const Attend& a, int row) {
  if constexpr (R > 1) {
    if (a.rows - row < R) return attend_up_to<R - 1, Stored>(a, row);
  }
  attend_rows<R, Stored>(a, row);
}

template <class Stored>
void attend(const Attend& a) {
  for (int row = 0; row < a.rows; row += kRowsAttend) attend_up_to<kRowsAttend, Stored>(a, row);
}

inline void convert(float* to, const Lanes& x) { store(to, x); }
inline void convert(Half* to, const Lanes& x) { store(to, x); }

// Transposes keys from rows to columns, up to 16 positions at once, so that a line of a page is written while in cache.
// False if a number is not finite: fp16 would hide it.
template <class Stored>
bool store_positions(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page) {
  const int width = padded_width(head_width);
  Lanes spoiled = broadcast(0.0f);
  for (int first = 0; first < rows; first += kPanel) {
    const int count = rows - first < kPanel ? rows - first : kPanel;
    Stored* keys = reinterpret_cast<Stored*>(k_page) + key + first;
    Stored* values = reinterpret_cast<Stored*>(v_page) + (key + first) * width;
    for (int d = 0; d < head_width; d += kPanel) {
      Stored buffer[kPanel][kPanel];
      for (int r = 0; r < count; ++r) {
        const Lanes key_part = load_first(k + (first + r) * stride + d, head_width - d, 0.0f);
        const Lanes value_part = load_first(v + (first + r) * stride + d, head_width - d, 0.0f);
        convert(buffer[r], key_part);
        convert(values + r * width + d, value_part);
        spoiled = multiply_add(key_part, broadcast(0.0f), multiply_add(value_part, broadcast(0.0f), spoiled));
      }
      for (int i = 0; i < kPanel && d + i < head_width; ++i) {
        for (int r = 0; r < count; ++r) keys[(d + i) * kPage + r] = buffer[r][i];
      }
    }
  }
  return sum_across(spoiled) == 0.0f;
}

}  // namespace
}  // namespace gpt2
