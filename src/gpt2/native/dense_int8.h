// Matrices in int8: a scale per output, a scale per row of activations, integer sums in 32 bits.
//
//   panel p, inputs in fours                     one load = 16 outputs x 4 inputs, 64 bytes
//     inputs 0..3 | o0: k0 k1 k2 k3 | o1: k0 k1 k2 k3 | ... | o15: k0 k1 k2 k3 |
//     inputs 4..7 | o0: k4 k5 k6 k7 | ...
//
// Every dot-product instruction (VNNI, AMX, NEON) adds four neighbouring inputs of an output into one 32-bit sum, so
// this layout suits all of them. y = sum * (row scale * activation scale) + bias.

#pragma once

namespace gpt2 {
namespace {

struct Int8Tile {
  static constexpr int kRows = kRowsInt8, kPanels = kPanelsInt8;

  template <int R, int P, class Fetch>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int step, const Fetch& fetch) {
    const int64_t apart = step * m.panel_bytes;
    const int8_t* w = reinterpret_cast<const int8_t*>(m.weights(panel));
    const int8_t* rows = x.codes + row * x.code_stride;
    fetch_beginnings<P, 2>(m, panel, step, fetch);

    Sums sums[R][P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = start_sums(x.code_sums[row + r]);
    for (int k = 0; k < m.padded_inputs; k += 4) {
      Codes weights[P];
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        weights[p] = load_weights(w + p * apart + static_cast<int64_t>(k) * kPanel);
        fetch(w + p * apart, k / 4);
      }
      GPT2_UNROLL for (int r = 0; r < R; ++r) {
        const Quad four = broadcast_quad(rows + r * x.code_stride + k);
        GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = dot4(sums[r][p], weights[p], four);
      }
    }
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      GPT2_UNROLL for (int p = 0; p < P; ++p) finish_whole(m, x, out, row + r, panel + p * step, sums[r][p]);
    }
  }

  static void finish_whole(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, const Sums& sums) {
    finish(out, row, panel, m.outputs, result(m, x, row, panel, sums));
  }

  GPT2_INLINE static Lanes result(const MatrixView& m, const Activations& x, int row, int panel, const Sums& sums) {
    const Lanes scale = mul(load(m.row_scales(panel)), broadcast(x.scales[row]));
    const Lanes scaled = mul(to_lanes(sums), scale);
    return add(scaled, load(m.bias(panel)));
  }
};

}  // namespace
}  // namespace gpt2
