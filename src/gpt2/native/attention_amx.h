// Attention in int8 by tiles, for several rows at once: the products of attention_int8.h, with the row weights made there.
//
//   scores   A: codes of the queries, a row each       B: 16 keys of a page, as they lie, four components a line
//   mixing   A: a half of the rows' weights of a page  B: 16 components of the page's values, four positions a line
//
// Heads wider than a tile's line use the other levels' code.

#pragma once

namespace gpt2 {
namespace {

constexpr int kFewestRowsAttend = 8;

// Tiles 0 to 3: sums; 4 and 5: queries and keys; 6 and 7: weights and values.
inline TileShapes shapes_to_attend(int rows, int key_lines) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) {
    shapes.lines[t] = static_cast<uint8_t>(t == 5 ? key_lines : t == 7 ? kTileLines : rows);
    shapes.bytes[t] = static_cast<uint16_t>(t == 4 ? 4 * key_lines : kTileBytes);
  }
  return shapes;
}

template <int Block>
inline void score_tile(const int8_t* keys, int32_t* products) {
  tile_zero<Block>();
  tile_load<5>(keys + Block * kTileBytes, 4 * kPage);
  tile_dot_int8<Block, 4, 5>();
  tile_store<Block>(products + Block * kPanel, sizeof(int32_t) * kPage);
}

void score_by_tiles(const Attend& a, const Queries& q) {
  alignas(64) int32_t products[kMaxAttendRows * kPage];
  tile_load<4>(a.codes, a.code_stride);
  for (int page = 0; page * kPage < a.first_position + a.rows; ++page) {
    const int8_t* keys = reinterpret_cast<const int8_t*>(a.pages[page] + a.k_offset);
    score_tile<0>(keys, products);
    score_tile<1>(keys, products);
    score_tile<2>(keys, products);
    score_tile<3>(keys, products);
    const float* key_scales = reinterpret_cast<const float*>(keys + key_bytes(a.head_width));
    Lanes scales[kBlocks];
    GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) scales[b] = load(key_scales + b * kPanel);
    for (int r = 0; r < a.rows; ++r) {
      const Lanes query_scale = broadcast(q.scales[r]);
      GPT2_UNROLL for (int b = 0; b < kBlocks; ++b) {
        const Sums sums = {_mm512_load_si512(products + r * kPage + b * kPanel)};
        store(a.scores + r * a.scores_stride + page * kPage + b * kPanel, mul(mul(to_lanes(sums), scales[b]), query_scale));
      }
    }
  }
}

// Values of 16 x P components from d on, both halves of the weights.
template <int P>
void mix_by_tiles(const Attend& a, const Weights& w, int d) {
  const int64_t width = padded_width(a.head_width);
  zero_sums<2, P>();
  for (int page = 0; page * kPage < w.keys; ++page) {
    const int8_t* upper = a.codes + page * kPage;
    const int8_t* values = reinterpret_cast<const int8_t*>(a.pages[page] + a.v_offset) + 4 * d;
    tile_load<7>(values, 4 * width);
    tile_load<6>(upper, a.code_stride);
    tile_dot_int8<0, 6, 7>();
    tile_load<6>(upper + a.code_stride / 2, a.code_stride);
    tile_dot_int8<2, 6, 7>();
    if constexpr (P == 2) {
      tile_load<7>(values + kTileBytes, 4 * width);
      tile_dot_int8<3, 6, 7>();
      tile_load<6>(upper, a.code_stride);
      tile_dot_int8<1, 6, 7>();
    }
  }
  alignas(64) int32_t sums[2][P][kTileLines * kPanel];
  tile_store<0>(sums[0][0], kTileBytes);
  tile_store<2>(sums[1][0], kTileBytes);
  if constexpr (P == 2) tile_store<1>(sums[0][1], kTileBytes);
  if constexpr (P == 2) tile_store<3>(sums[1][1], kTileBytes);
  for (int r = 0; r < a.rows; ++r) {
    GPT2_UNROLL for (int p = 0; p < P; ++p) {
      const Sums high = {_mm512_load_si512(sums[0][p] + r * kPanel)}, low = {_mm512_load_si512(sums[1][p] + r * kPanel)};
      const int component = d + p * kPanel;
      store_first(a.out + r * a.out_stride + component, mixed(w, r, high, low), a.head_width - component);
    }
  }
}

void attend_int8_by_tiles(const Attend& a) {
  const int key_lines = (a.head_width + 3) / 4;
  if (a.rows < kFewestRowsAttend || key_lines > kTileLines) return attend_int8(a);
  const Queries q(a);
  const TilesInUse tiles(shapes_to_attend(a.rows, key_lines));
  score_by_tiles(a, q);
  Weights w;
  w.keys = static_cast<int>(round_up(a.first_position + a.rows, kPage));
  for (int r = 0; r < a.rows; ++r) weigh_row(a, w, r);
  int d = 0;
  for (; d + 2 * kPanel <= padded_width(a.head_width); d += 2 * kPanel) mix_by_tiles<2>(a, w, d);
  if (d < a.head_width) mix_by_tiles<1>(a, w, d);
}

}  // namespace
}  // namespace gpt2
