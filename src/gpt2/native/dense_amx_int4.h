// Matrices in int4 by tiles. A weight is its code times its group's scale, 11 bits. Splitting the scale into halves,
//
//   scale * code = 16 * (scale / 16 * code) + (scale % 16 * code)
//
// makes it two bytes. So a panel becomes two int8 panels, made once for all rows and multiplied side by side:
//
//   packed, two codes a byte          upper bytes, as int8 lies          lower bytes
//     | inputs 0..3, 4..7 |     ->      | inputs 0..3 |                    | inputs 0..3 |
//     | inputs 8..11, 12..15 |          | inputs 4..7 |                    | inputs 4..7 |
//     ...                               ...                                ...

#pragma once

namespace gpt2 {
namespace {

constexpr int kInputsInt4 = 1024;   // unpacked at a time, so that the bytes stay in the L1 cache
constexpr int64_t kHalfInt4 = kInputsInt4 * kPanel;   // offset from the upper bytes to the lower
constexpr int kRowsOfSums = 256;

// Four bits of each output's scale times its codes. Codes are stored as 0 to 15, and such a product fits a byte, so one
// 16-bit multiplication computes two; then 8 times the scale is subtracted.
struct GroupBytes {
  __m512i scales, offsets;

  explicit GroupBytes(__m512i four_bits)
      : scales(_mm512_mullo_epi32(four_bits, _mm512_set1_epi32(0x10001))), offsets(_mm512_mullo_epi32(four_bits, _mm512_set1_epi32(0x08080808))) {}
  __m512i of(const Codes& codes) const { return _mm512_sub_epi8(_mm512_mullo_epi16(codes.v, scales), offsets); }
};

// Unpacks groups [group, group_end) of a panel into two int8 panels.
inline void make_bytes(const MatrixView& m, int panel, int group, int group_end, int8_t* to) {
  for (; group < group_end; ++group) {
    const int8_t* w = reinterpret_cast<const int8_t*>(m.weights(panel)) + MatrixView::codes_at(group);
    const __m512i scale = load_scales(m.weights(panel) + MatrixView::scales_at(group)).v;
    const GroupBytes upper(_mm512_srli_epi32(scale, 4)), lower(_mm512_and_si512(scale, _mm512_set1_epi32(15)));
    GPT2_UNROLL for (int k = 0; k < kGroup; k += 8, w += kTileBytes, to += 2 * kTileBytes) {
      const Codes both = load_codes(w), first = low_nibbles(both), second = high_nibbles(both);
      _mm512_store_si512(to, upper.of(first));
      _mm512_store_si512(to + kTileBytes, upper.of(second));
      _mm512_store_si512(to + kHalfInt4, lower.of(first));
      _mm512_store_si512(to + kHalfInt4 + kTileBytes, lower.of(second));
    }
  }
}

// Sums of up to kRowsOfSums rows with both halves of one panel: a tile of 16 rows after another, upper before lower.
struct Int4Sums {
  alignas(64) int32_t tiles[kRowsOfSums / kTileLines][2][kTileLines * kPanel];

  template <int Blocks>
  void to_tiles(int block) {
    tile_load<0>(tiles[2 * block][0], kTileBytes);
    tile_load<1>(tiles[2 * block][1], kTileBytes);
    if constexpr (Blocks == 2) tile_load<2>(tiles[2 * block + 1][0], kTileBytes);
    if constexpr (Blocks == 2) tile_load<3>(tiles[2 * block + 1][1], kTileBytes);
  }
  template <int Blocks>
  void from_tiles(int block) {
    tile_store<0>(tiles[2 * block][0], kTileBytes);
    tile_store<1>(tiles[2 * block][1], kTileBytes);
    if constexpr (Blocks == 2) tile_store<2>(tiles[2 * block + 1][0], kTileBytes);
    if constexpr (Blocks == 2) tile_store<3>(tiles[2 * block + 1][1], kTileBytes);
  }
  // Sums of the row's 16 outputs.
  Sums of_row(int r) const {
    const auto& tile = tiles[r / kTileLines];
    const __m512i upper = _mm512_load_si512(tile[0] + r % kTileLines * kPanel), lower = _mm512_load_si512(tile[1] + r % kTileLines * kPanel);
    return {_mm512_add_epi32(_mm512_slli_epi32(upper, 4), lower)};
  }
};

// Inputs [input, end) of a block of rows. If the last inputs fill half a tile, the other half of the weights is zeros, so
// the rows may hold anything there.
template <int Blocks>
inline void add_products_int4(const Activations& x, int row, int input, int end, int block, const int8_t* bytes, Int4Sums& sums, FetchLines fetch) {
  if (input == 0) zero_sums<Blocks, 2>();
  else sums.to_tiles<Blocks>(block);
  const uint8_t* a = static_cast<const uint8_t*>(Int8Products::row(x, row));
  const uint8_t* b = reinterpret_cast<const uint8_t*>(bytes);
  for (int k = input; k < end; k += kTileBytes, b += kTileSize) {
    multiply_tiles<Int8Products, Blocks, 2>(a + k, x.code_stride, b, kHalfInt4);
    fetch();
  }
  sums.from_tiles<Blocks>(block);
}

void run_int4_panel(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, TilesInUse& tiles) {
  alignas(64) int8_t bytes[2 * kHalfInt4];
  Int4Sums sums;
  for (int input = 0; input < m.padded_inputs; input += kInputsInt4) {
    const int end = input + kInputsInt4 < m.padded_inputs ? input + kInputsInt4 : m.padded_inputs, inputs = end - input;
    make_bytes(m, panel, input / kGroup, end / kGroup, bytes);
    if (inputs % kTileBytes) for (int half = 0; half < 2; ++half) std::memset(bytes + half * kHalfInt4 + inputs * kPanel, 0, kGroup * kPanel);
    for_row_blocks(row, row_end, tiles, [&](int first, int rows, int block) {
      const FetchLines fetch(m.weights(panel + 1) + MatrixView::scales_at(input / kGroup), kTileLines / 2 + 1, inputs / kTileBytes, block, row_blocks(row_end - row));
      if (rows > kTileLines) add_products_int4<2>(x, first, input, end, block, bytes, sums, fetch);
      else add_products_int4<1>(x, first, input, end, block, bytes, sums, fetch);
    });
  }
  finish_rows(m, out, row, row_end - row, panel, [&](int r) { return Int8Tile::result(m, x, row + r, panel, sums.of_row(r)); });
}

void walk_int4(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  TilesInUse tiles;
  for (; panel < panel_end; ++panel) {
    for (int r = row; r < row_end; r += kRowsOfSums) run_int4_panel(m, x, out, r, row_end - r < kRowsOfSums ? row_end : r + kRowsOfSums, panel, tiles);
  }
}

}  // namespace
}  // namespace gpt2
