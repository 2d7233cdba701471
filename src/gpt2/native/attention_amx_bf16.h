// Attention in bf16 by tiles. Keys and values are bfloat16, in the pairs that tiles multiply:
//
//   a page holds 64 positions; for one layer and head, D2 = half the head width, D' = the width rounded up to 16:
//     keys    [D2][64][2]      a line: two components of 16 keys      (of an odd width the last has a zero beside it)
//     values  [64/2][D'][2]    a line: 16 components of two values
//
//   score  = (query / sqrt(D), in bfloat16) . key
//   e      = exp(score - max), in bfloat16, over the keys up to the row's own position
//   output = e . values / sum of e
//
// A row's sums do not depend on the rows beside it, and run over whole pages in order: a key that a row does not see has
// weight zero, and zero times a finite number adds nothing. So every value in a page must be finite, even where nothing is
// stored yet: pages start as zeros, and only finite numbers are stored. A single row is bound by memory, and computes the
// same sums by multiply-adds.

#pragma once

namespace gpt2 {
namespace {

constexpr int kPairsAtOnce = kTileLines;          // pairs of components or positions that one product sums over
constexpr float kLargestBf16 = 0x1.fep127f;

// Clamps to finite bfloat16, NaN too: max and min return their second operand for a NaN.
inline Lanes within_bf16(const Lanes& x) { return min(max(x, broadcast(-kLargestBf16)), broadcast(kLargestBf16)); }
inline Lanes widen(const __m256i& x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))}; }

inline int key_pairs(int head_width) { return (head_width + 1) / 2; }
inline Bf16* codes_of(const Attend& a, int row) { return reinterpret_cast<Bf16*>(a.codes + row * a.code_stride); }

// While it lives, subnormal numbers count as zeros, as in tiles. Code that computes meanwhile must not be inlined: the
// compiler does not know that arithmetic depends on this, and may move it across.
class NoSubnormals {
 public:
  NoSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  NoSubnormals(const NoSubnormals&) = delete;
  NoSubnormals& operator=(const NoSubnormals&) = delete;
  ~NoSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
};

inline void round_queries(const Attend& a) {
  for (int r = 0; r < a.rows; ++r) {
    for (int d = 0; d < a.head_width; d += kPanel) {
      store(codes_of(a, r) + d, mul(load_first(a.q + r * a.q_stride + d, a.head_width - d, 0.0f), broadcast(a.scale)));
    }
  }
}

// From scores to weights, up to the end of the last page. The sum uses the rounded weights, which cancels common rounding.
inline void round_weights(const Attend& a, int pages) {
  for (int r = 0; r < a.rows; ++r) {
    const int own = a.first_position + r + 1;
    float* scores = a.scores + r * a.scores_stride;
    Bf16* weights = codes_of(a, r);
    Lanes sum = broadcast(0.0f);
    const float exact = exponentiate(scores, own, [&](int s, const Lanes& e) {
      store(weights + s, e);
      store(scores + s, widen(to_bf16(e)));
      sum = add(sum, widen(to_bf16(e)));
    });
    a.sums[r] = sum_across(sum) + 0.0f * exact;   // NaN if `exact` is
    for (int s = static_cast<int>(round_up(own, kPanel)); s < pages * kPage; s += kPanel) store(weights + s, broadcast(0.0f));
  }
}

// Clears the sign of zeros, which depends on whether zero products were added. Runs under NoSubnormals for all rows alike.
inline void put_mixed(const Attend& a, int row, int component, const Lanes& sums) {
  const Lanes mixed = div(add(sums, broadcast(0.0f)), broadcast(a.sums[row]));
  store_first(a.out + row * a.out_stride + component, mixed, a.head_width - component);
}

// ---- several rows ----

// Tiles 0 to 3: sums; 4 and 5: a whole step of both factors; 6 and 7: the remaining components of a head.
inline TileShapes shapes_to_attend_bf16(int rows, int pairs_left) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) {
    shapes.lines[t] = static_cast<uint8_t>(t == 5 ? kTileLines : t == 7 ? pairs_left : rows);
    shapes.bytes[t] = static_cast<uint16_t>(t == 6 ? 4 * pairs_left : kTileBytes);
  }
  return shapes;
}

template <int Row, int Key>
inline void score_step(const Bf16* q, int64_t q_bytes, const Bf16* keys) {
  tile_load<Row>(q, q_bytes);
  tile_load<Key>(keys, 4 * kPage);
  tile_dot_bf16<0, Row, Key>();
  tile_load<Key>(keys + 2 * kPanel, 4 * kPage);
  tile_dot_bf16<1, Row, Key>();
  tile_load<Key>(keys + 4 * kPanel, 4 * kPage);
  tile_dot_bf16<2, Row, Key>();
  tile_load<Key>(keys + 6 * kPanel, 4 * kPage);
  tile_dot_bf16<3, Row, Key>();
}

void score_by_tiles_bf16(const Attend& a, int pages) {
  const int pairs = key_pairs(a.head_width);
  for (int page = 0; page < pages; ++page) {
    const Bf16* keys = reinterpret_cast<const Bf16*>(a.pages[page] + a.k_offset);
    zero_sums<2, 2>();   // all four
    int pair = 0;
    for (; pair + kPairsAtOnce <= pairs; pair += kPairsAtOnce) score_step<4, 5>(codes_of(a, 0) + 2 * pair, a.code_stride, keys + 2 * kPage * pair);
    if (pair < pairs) score_step<6, 7>(codes_of(a, 0) + 2 * pair, a.code_stride, keys + 2 * kPage * pair);
    float* scores = a.scores + page * kPage;
    const int64_t bytes = a.scores_stride * int64_t{sizeof(float)};
    tile_store<0>(scores, bytes);
    tile_store<1>(scores + kPanel, bytes);
    tile_store<2>(scores + 2 * kPanel, bytes);
    tile_store<3>(scores + 3 * kPanel, bytes);
  }
}

// Values of 16 x P components from d on, P = 1 or 4.
template <int P>
GPT2_NOINLINE void mix_by_tiles_bf16(const Attend& a, int pages, int d) {
  const int64_t width = padded_width(a.head_width);
  tile_zero<0>();
  if constexpr (P == 4) {
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }
  for (int page = 0; page < pages; ++page) {
    const Bf16* values = reinterpret_cast<const Bf16*>(a.pages[page] + a.v_offset) + 2 * d;
    for (int s = 0; s < kPage; s += 2 * kPairsAtOnce, values += 2 * kPairsAtOnce * width) {
      tile_load<4>(codes_of(a, 0) + page * kPage + s, a.code_stride);
      tile_load<5>(values, 4 * width);
      tile_dot_bf16<0, 4, 5>();
      if constexpr (P == 4) {
        tile_load<5>(values + 2 * kPanel, 4 * width);
        tile_dot_bf16<1, 4, 5>();
        tile_load<5>(values + 4 * kPanel, 4 * width);
        tile_dot_bf16<2, 4, 5>();
        tile_load<5>(values + 6 * kPanel, 4 * width);
        tile_dot_bf16<3, 4, 5>();
      }
    }
  }
  alignas(64) float sums[P][kTileLines * kPanel];
  tile_store<0>(sums[0], kTileBytes);
  if constexpr (P == 4) {
    tile_store<1>(sums[1], kTileBytes);
    tile_store<2>(sums[2], kTileBytes);
    tile_store<3>(sums[3], kTileBytes);
  }
  for (int r = 0; r < a.rows; ++r) {
    GPT2_UNROLL for (int p = 0; p < P; ++p) put_mixed(a, r, d + p * kPanel, load(sums[p] + r * kPanel));
  }
}

void attend_together(const Attend& a, int pages) {
  const int pairs_left = key_pairs(a.head_width) % kPairsAtOnce;
  const TilesInUse tiles(shapes_to_attend_bf16(a.rows, pairs_left > 0 ? pairs_left : kPairsAtOnce));
  score_by_tiles_bf16(a, pages);
  round_weights(a, pages);
  const NoSubnormals from_here;
  int d = 0;
  for (; d + 4 * kPanel <= padded_width(a.head_width); d += 4 * kPanel) mix_by_tiles_bf16<4>(a, pages, d);
  for (; d < a.head_width; d += kPanel) mix_by_tiles_bf16<1>(a, pages, d);
}

// ---- one row ----

// What a tile product adds to B x 16 outputs: the first and second elements of pairs summed separately, then together.
template <int B>
struct PairSums {
  Lanes first[B], second[B];

  GPT2_INLINE PairSums() { GPT2_UNROLL for (int b = 0; b < B; ++b) first[b] = second[b] = broadcast(0.0f); }

  GPT2_INLINE void add_products(const Bf16* pair, const Bf16* line) {
    int32_t bits;
    std::memcpy(&bits, pair, 4);
    const Pairs both = {_mm512_set1_epi32(bits)};
    GPT2_UNROLL for (int b = 0; b < B; ++b) {
      const Pairs other = load_pairs(line + 2 * kPanel * b);
      first[b] = multiply_add(first_of(other), first_of(both), first[b]);
      second[b] = multiply_add(second_of(other), second_of(both), second[b]);
    }
  }

  GPT2_INLINE void add_to(Lanes* totals) const { GPT2_UNROLL for (int b = 0; b < B; ++b) totals[b] = add(totals[b], add(first[b], second[b])); }
};

// A single row is bound by memory: scores prefetch the values of their page, and mixing the next head's keys, which follow.
inline void ask_for(const Bf16* from, int numbers) {
  for (int at = 0; at < numbers; at += kLine / int{sizeof(Bf16)}) prefetch(from + at);
}

GPT2_NOINLINE void score_alone(const Attend& a, int pages) {
  const int pairs = key_pairs(a.head_width);
  for (int page = 0; page < pages; ++page) {
    const Bf16* keys = reinterpret_cast<const Bf16*>(a.pages[page] + a.k_offset);
    const Bf16* values = reinterpret_cast<const Bf16*>(a.pages[page] + a.v_offset);
    const int keys_here = a.first_position + 1 - page * kPage, numbers = (keys_here < kPage ? keys_here : kPage) * padded_width(a.head_width);
    Lanes totals[kBlocks];
    GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) totals[b] = broadcast(0.0f);
    for (int begin = 0; begin < pairs; begin += kPairsAtOnce) {
      PairSums<kBlocks> sums;
      for (int pair = begin; pair < begin + kPairsAtOnce && pair < pairs; ++pair) {
        if (pair * 2 * kPage < numbers) ask_for(values + pair * 2 * kPage, 2 * kPage);
        sums.add_products(codes_of(a, 0) + 2 * pair, keys + pair * 2 * kPage);
      }
      sums.add_to(totals);
    }
    GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) store(a.scores + page * kPage + b * kPanel, totals[b]);
  }
}

template <int B>
GPT2_NOINLINE void mix_alone(const Attend& a, int pages, int d) {
  const int width = padded_width(a.head_width);
  Lanes totals[B];
  GPT2_UNROLL for (int b = 0; b < B; ++b) totals[b] = broadcast(0.0f);
  for (int page = 0; page < pages; ++page) {
    const Bf16* values = reinterpret_cast<const Bf16*>(a.pages[page] + a.v_offset);
    const Bf16* weights = codes_of(a, 0) + page * kPage;
    const Bf16* next_keys = values + kPage * width;
    const int keys_here = a.first_position + 1 - page * kPage, pairs = (keys_here < kPage ? keys_here + 1 : kPage) / 2;
    for (int begin = 0; begin < pairs; begin += kPairsAtOnce) {
      PairSums<B> sums;
      for (int pair = begin; pair < begin + kPairsAtOnce && pair < pairs; ++pair) {
        if (d == 0 && keys_here >= kPage) ask_for(next_keys + pair * 2 * width, 2 * width);
        sums.add_products(weights + 2 * pair, values + 2 * (pair * width + d));
      }
      sums.add_to(totals);
    }
    // of a partial page, only the keys in use of each pair of components
    for (int c = 0; d == 0 && keys_here < kPage && c < key_pairs(a.head_width); ++c) ask_for(next_keys + c * 2 * kPage, 2 * keys_here);
  }
  GPT2_UNROLL for (int b = 0; b < B; ++b) put_mixed(a, 0, d + b * kPanel, totals[b]);
}

void attend_alone(const Attend& a, int pages) {
  {
    const NoSubnormals until_here;
    score_alone(a, pages);
  }
  round_weights(a, pages);
  const NoSubnormals from_here;
  int d = 0;
  for (; d + 4 * kPanel <= padded_width(a.head_width); d += 4 * kPanel) mix_alone<4>(a, pages, d);
  for (; d < a.head_width; d += kPanel) mix_alone<1>(a, pages, d);
}

void attend_bf16(const Attend& a) {
  const int pages = (a.first_position + a.rows + kPage - 1) / kPage;
  round_queries(a);
  if (a.rows == 1) attend_alone(a, pages);
  else attend_together(a, pages);
}

// False if a number is not finite; a finite one is stored instead.
bool store_bf16(const float* k, const float* v, int64_t stride, int rows, int head_width, int key, unsigned char* k_page, unsigned char* v_page) {
  const int width = padded_width(head_width), pairs = key_pairs(head_width);
  constexpr int kPairs = kPanel / 2;
  Lanes spoiled = broadcast(0.0f);
  for (int first = 0; first < rows; first += kPanel) {   // transposes keys, as in attention.h
    const int count = rows - first < kPanel ? rows - first : kPanel;
    uint32_t* keys = reinterpret_cast<uint32_t*>(k_page) + key + first;
    for (int d = 0; d < head_width; d += kPanel) {
      uint32_t buffer[kPanel][kPairs];
      for (int r = 0; r < count; ++r) {
        const Lanes key_part = load_first(k + (first + r) * stride + d, head_width - d, 0.0f);
        const Lanes value_part = load_first(v + (first + r) * stride + d, head_width - d, 0.0f);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(buffer[r]), to_bf16(within_bf16(key_part)));
        const int position = key + first + r, second = position % 2;
        const __m512i wide = _mm512_cvtepu16_epi32(to_bf16(within_bf16(value_part)));
        uint32_t* pairs_of_values = reinterpret_cast<uint32_t*>(v_page) + position / 2 * width + d;
        _mm512_mask_storeu_epi16(pairs_of_values, second ? 0xaaaaaaaa : 0x55555555, second ? _mm512_slli_epi32(wide, 16) : wide);
        spoiled = multiply_add(key_part, broadcast(0.0f), multiply_add(value_part, broadcast(0.0f), spoiled));
      }
      for (int i = 0; i < kPairs && d / 2 + i < pairs; ++i) {
        for (int r = 0; r < count; ++r) keys[(d / 2 + i) * kPage + r] = buffer[r][i];
      }
    }
  }
  return sum_across(spoiled) == 0.0f;
}

}  // namespace
}  // namespace gpt2
