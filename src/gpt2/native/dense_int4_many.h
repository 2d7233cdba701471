// Many rows in int4: the first tile unpacks the codes while it multiplies, and the other tiles read the bytes. This goes
// block by block of inputs, so that the bytes stay in the L1 cache; between blocks the sums of all rows are in memory.
//
//   packed, two codes a byte          unpacked, panels side by side
//     | inputs 0..3, 4..7 |     ->      | inputs 0..3 of panel p | the same of p + 1 |
//     | inputs 8..11, 12..15 |          | inputs 4..7 of panel p | the same of p + 1 |
//     ...                               ...
//
// The sums are those of dense_int4.h: integers, exact in any order.

#pragma once

namespace gpt2 {
namespace {

template <int P>
struct Int4Block {
  static constexpr int kInputs = 384, kGroups = kInputs / kGroup, kMostRows = 256;

  Codes codes[kInputs / 4][P];
  Scales scales[kGroups][P];
  Sums sums[kMostRows][P];

  // Adds the products of R rows with some groups of inputs to their sums. Twice per group it prefetches at `next`.
  template <int R, bool TakesApart>
  GPT2_NOINLINE void add_products(const MatrixView& m, const Activations& x, int row, int panel, int first, int group, int group_end, const unsigned char* next, int64_t stride) {
    const uint8_t* w = m.weights(panel);
    const int8_t* rows = x.codes + (row + first) * x.code_stride + group * kGroup;
    const int32_t* offsets = x.group_offsets + (row + first) * x.group_stride + group;
    const int64_t row_stride = x.code_stride, group_stride = x.group_stride, panel_bytes = m.panel_bytes;
    Codes* quads = codes[0];
    Scales* scale = scales[0];

    Sums total[R][P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) total[r][p] = sums[first + r][p];
    for (int g = group; g < group_end; ++g) {
      GroupSums part[R][P];
      GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) part[r][p] = start_group(offsets[r * group_stride]);
      GPT2_UNROLL for (int k = 0; k < kGroup; k += 8) {
        Codes lower[P], upper[P];
        GPT2_UNROLL for (int p = 0; p < P; ++p) {
          if constexpr (TakesApart) {
            const Codes both = load_codes(reinterpret_cast<const int8_t*>(w) + p * panel_bytes + MatrixView::codes_at(g) + k / 8 * kLine);
            quads[k / 4 * P + p] = lower[p] = low_nibbles(both);
            quads[(k / 4 + 1) * P + p] = upper[p] = high_nibbles(both);
          } else {
            lower[p] = quads[k / 4 * P + p];
            upper[p] = quads[(k / 4 + 1) * P + p];
          }
          if (k % (kGroup / 2) == 0) prefetch(next + p * panel_bytes + k / (kGroup / 2) * stride);
        }
        GPT2_UNROLL for (int r = 0; r < R; ++r) {
          const Quad four = broadcast_quad(rows + r * row_stride + k);
          GPT2_UNROLL for (int p = 0; p < P; ++p) part[r][p] = group_dot4(part[r][p], lower[p], four);
        }
        GPT2_UNROLL for (int r = 0; r < R; ++r) {
          const Quad four = broadcast_quad(rows + r * row_stride + k + 4);
          GPT2_UNROLL for (int p = 0; p < P; ++p) part[r][p] = group_dot4(part[r][p], upper[p], four);
        }
      }
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        if constexpr (TakesApart) scale[p] = load_scales(w + p * panel_bytes + MatrixView::scales_at(g));
        const Scales here = scale[p];
        GPT2_UNROLL for (int r = 0; r < R; ++r) total[r][p] = add_scaled(total[r][p], part[r][p], here);
      }
      quads += kGroup / 4 * P;
      scale += P;
      rows += kGroup;
      ++offsets;
      next += 2 * stride;
    }
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[first + r][p] = total[r][p];
  }

  template <int R, bool TakesApart>
  void add_rows(const MatrixView& m, const Activations& x, int row, int count, int panel, int first, int group, int group_end, const unsigned char* next, int64_t stride) {
    if constexpr (R > 1) {
      if (count < R) return add_rows<R - 1, TakesApart>(m, x, row, count, panel, first, group, group_end, next, stride);
    }
    add_products<R, TakesApart>(m, x, row, panel, first, group, group_end, next, stride);
  }

  // Up to kMostRows rows with P panels. The tiles prefetch the next panels, a part each, as in dense.h.
  void run(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel) {
    const int groups = m.padded_inputs / kGroup, rows = row_end - row, tiles = (rows + kRowsMany - 1) / kRowsMany;
    const int64_t ahead = P * m.panel_bytes, stride = ((kGroupBytes + kPanel) / 2 + tiles - 1) / tiles;
    for (int p = 0; p < P; ++p) {
      for (const unsigned char* line = m.panel(panel + p); line < m.weights(panel + p); line += kLine) prefetch(line + ahead);
    }
    for (int r = 0; r < rows; ++r) for (int p = 0; p < P; ++p) sums[r][p] = Sums{};
    for (int group = 0; group < groups; group += kGroups) {
      const int group_end = group + kGroups < groups ? group + kGroups : groups;
      const unsigned char* next = m.weights(panel) + ahead + MatrixView::scales_at(group);
      for (int tile = 0, first = 0; tile < tiles; ++tile, next += (group_end - group) * 2 * stride) {
        const int count = (rows - first + tiles - tile - 1) / (tiles - tile);   // equal shares, or one more
        if (tile == 0) add_rows<kRowsMany, true>(m, x, row, count, panel, first, group, group_end, next, stride);
        else add_rows<kRowsMany, false>(m, x, row, count, panel, first, group, group_end, next, stride);
        first += count;
      }
    }
    for (int p = 0; p < P; ++p) finish_rows(m, out, row, rows, panel + p, [&](int r) { return Int8Tile::result(m, x, row + r, panel + p, sums[r][p]); });
  }
};

template <int P>
void run_many(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel) {
  Int4Block<P> block;
  for (; row < row_end; row += Int4Block<P>::kMostRows) {
    block.run(m, x, out, row, row_end - row < Int4Block<P>::kMostRows ? row_end : row + Int4Block<P>::kMostRows, panel);
  }
}

template <int P = kPanelsMany>
void walk_many_int4(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  for (; panel + P <= panel_end; panel += P) run_many<P>(m, x, out, row, row_end, panel);
  for (; panel < panel_end; ++panel) run_many<1>(m, x, out, row, row_end, panel);
}

}  // namespace
}  // namespace gpt2
