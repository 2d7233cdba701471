// Matrices in int4: groups of 32 inputs with an integer scale of 1..127 each, under one float scale per output.
//
//   weight = row scale * group scale * code, code in -8..7, stored as 0..15
//
//   a panel's weights   | scales of groups 0..3 | codes of group 0 | 1 | 2 | 3 | scales of groups 4..7 | codes of group 4 | ...
//   scales of 4 groups: 64 bytes                 [group][16], one byte each
//   codes of a group: 256 bytes                  one load = 16 outputs x 8 inputs, 64 bytes
//     inputs 0..7   | o0: k0 k1 k2 k3 | o1: k0 k1 k2 k3 | ... | o15 |   in the lower nibbles
//                   | o0: k4 k5 k6 k7 | o1: k4 k5 k6 k7 | ... | o15 |   in the upper nibbles
//     inputs 8..15, 16..23, 24..31 likewise
//
// Group scales are integers, so a row sums exactly in 32 bits, without floats until the end.

#pragma once

namespace gpt2 {
namespace {

struct Int4Tile {
  static constexpr int kRows = kRowsInt4, kPanels = kPanelsInt4;

  template <int R, int P, class Fetch>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int step, const Fetch& fetch) {
    const int groups = m.padded_inputs / kGroup;
    const int64_t apart = step * m.panel_bytes;
    const uint8_t* w = m.weights(panel);
    const int8_t* rows = x.codes + row * x.code_stride;
    const int32_t* offsets = x.group_offsets + row * x.group_stride;
    fetch_beginnings<P, 2>(m, panel, step, fetch);

    Sums sums[R][P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = Sums{};
    for (int g = 0; g < groups; ++g) {
      GroupSums group[R][P];
      GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) group[r][p] = start_group(offsets[r * x.group_stride + g]);
      for (int k = 0; k < kGroup; k += 8) {
        Codes lower[P], upper[P];
        GPT2_UNROLL for (int p = 0; p < P; ++p) {
          const Codes both = load_codes(reinterpret_cast<const int8_t*>(w) + p * apart + MatrixView::codes_at(g) + k / 8 * kLine);
          fetch(w + p * apart, MatrixView::codes_at(g) / kLine + k / 8);
          lower[p] = low_nibbles(both);
          upper[p] = high_nibbles(both);
        }
        GPT2_UNROLL for (int r = 0; r < R; ++r) {
          const int8_t* eight = rows + r * x.code_stride + g * kGroup + k;
          const Quad four = broadcast_quad(eight), next = broadcast_quad(eight + 4);
          GPT2_UNROLL for (int p = 0; p < P; ++p) group[r][p] = group_dot4(group_dot4(group[r][p], lower[p], four), upper[p], next);
        }
      }
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        const Scales scale = load_scales(w + p * apart + MatrixView::scales_at(g));
        if (g % kScaledGroups == 0) fetch(w + p * apart, MatrixView::scales_at(g) / kLine);
        GPT2_UNROLL for (int r = 0; r < R; ++r) sums[r][p] = add_scaled(sums[r][p], group[r][p], scale);
      }
    }
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      GPT2_UNROLL for (int p = 0; p < P; ++p) Int8Tile::finish_whole(m, x, out, row + r, panel + p * step, sums[r][p]);
    }
  }
};

}  // namespace
}  // namespace gpt2
