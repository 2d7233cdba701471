// Matrices in fp32 and bf16: float weights, float sums.
//
//   fp32: panel p, outputs 16p .. 16p+15         one load = 16 outputs of one input
//     input 0   | w[0][16p] w[0][16p+1] ... w[0][16p+15] |
//     input 1   | w[1][16p] w[1][16p+1] ... w[1][16p+15] |
//     ...
//     input K-1 | ...                                    |
//
//   bf16: inputs in pairs, an odd K padded       one load = 16 outputs of two inputs
//     inputs 0, 1 | w[0][16p] w[1][16p] | w[0][16p+1] w[1][16p+1] | ... | w[0][16p+15] w[1][16p+15] |
//     inputs 2, 3 | ...
//
// A tile walks the inputs in order, so an output's sum is ((x0 w0 + x1 w1) + x2 w2) + ... in every tile: R and P never
// change its bits. On levels with products of pairs (GPT2_LANES_BF16), rows are rounded to bfloat16 before they meet a
// bf16 matrix, and a pair is one instruction.

#pragma once

namespace gpt2 {
namespace {

template <int R, int P>
GPT2_INLINE void finish_floats(const MatrixView& m, const Output& out, int row, int panel, int step, const Lanes (&sums)[R][P]) {
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    GPT2_UNROLL for (int p = 0; p < P; ++p) finish(out, row + r, panel + p * step, m.outputs, add(sums[r][p], load(m.bias(panel + p * step))));
  }
}

template <int R, int P>
GPT2_INLINE void multiply_input(Lanes (&sums)[R][P], const Lanes (&weights)[P], const float* x, int64_t stride) {
  GPT2_UNROLL for (int r = 0; r < R; ++r) {
    const Lanes input = broadcast(x[r * stride]);
    GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = multiply_add(weights[p], input, sums[r][p]);
  }
}

struct Fp32Tile {
  static constexpr int kRows = kRowsFloat, kPanels = kPanelsFloat;

  template <int R, int P, class Fetch>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int step, const Fetch& fetch) {
    const int64_t apart = step * m.panel_bytes / static_cast<int64_t>(sizeof(float));
    const float* w = reinterpret_cast<const float*>(m.weights(panel));
    const float* rows = x.values + row * x.stride;
    fetch_beginnings<P, 1>(m, panel, step, fetch);

    Lanes sums[R][P], weights[P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = broadcast(0.0f);
    for (int k = 0; k < m.inputs; ++k) {
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        weights[p] = load(w + p * apart + static_cast<int64_t>(k) * kPanel);
        fetch(w + p * apart, k);
      }
      multiply_input(sums, weights, rows + k, x.stride);
    }
    finish_floats(m, out, row, panel, step, sums);
  }
};

struct Bf16Tile {
  static constexpr int kRows = kRowsFloat, kPanels = kPanelsFloat;

  template <int R, int P, class Fetch>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int step, const Fetch& fetch) {
    const int64_t apart = step * m.panel_bytes / static_cast<int64_t>(sizeof(Bf16));
    const Bf16* w = reinterpret_cast<const Bf16*>(m.weights(panel));
    fetch_beginnings<P, 1>(m, panel, step, fetch);

    Lanes sums[R][P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = broadcast(0.0f);
#if defined(GPT2_LANES_BF16)
    const Bf16* rows = x.rounded + row * x.rounded_stride;
    for (int k = 0; k < m.padded_inputs; k += 2) {
      Pairs weights[P];
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        weights[p] = load_pairs(w + p * apart + static_cast<int64_t>(k) * kPanel);
        fetch(w + p * apart, k / 2);
      }
      GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = dot2(sums[r][p], weights[p], rows + r * x.rounded_stride + k);
    }
#else
    const float* rows = x.values + row * x.stride;
    for (int k = 0; k < m.padded_inputs; k += 2) {
      Lanes first[P], second[P];
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        const Pairs pairs = load_pairs(w + p * apart + static_cast<int64_t>(k) * kPanel);
        fetch(w + p * apart, k / 2);
        first[p] = first_of(pairs);
        second[p] = second_of(pairs);
      }
      multiply_input(sums, first, rows + k, x.stride);
      if (k + 1 < m.inputs) multiply_input(sums, second, rows + k + 1, x.stride);
    }
#endif
    finish_floats(m, out, row, panel, step, sums);
  }
};

}  // namespace
}  // namespace gpt2
