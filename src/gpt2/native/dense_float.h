// Matrices in fp32 and bf16: float weights, float activations, float sums.
//
//   panel p, outputs 16p .. 16p+15               one load = 16 outputs of one input
//     input 0   | w[0][16p] w[0][16p+1] ... w[0][16p+15] |
//     input 1   | w[1][16p] w[1][16p+1] ... w[1][16p+15] |
//     ...
//     input K-1 | ...                                    |
//
// A tile of R rows x P panels keeps its sums in registers and walks the inputs once, in order. So the sum of an
// output is ((x0 w0 + x1 w1) + x2 w2) + ... whatever the tile: R and P never change its bits.

#pragma once

namespace gpt2 {
namespace {

// One panel's results of one row: bias, then store, add or gelu; the last panel may be narrower than 16.
inline void finish(const Output& out, int row, int panel, int outputs, const Lanes& result) {
  float* y = out.values + row * out.stride + panel * kPanel;
  const int count = outputs - panel * kPanel;
  switch (out.finish) {
    case Finish::store: return store_first(y, result, count);
    case Finish::add: return store_first(y, add(load_first(y, count, 0.0f), result), count);
    case Finish::gelu: return store_first(y, gelu(result), count);
  }
}

template <int R, int P, class Weight>
void float_tile(const MatrixView& m, const Activations& x, const Output& out, int row, int panel) {
  const int64_t panel_size = static_cast<int64_t>(m.inputs) * kPanel;
  const Weight* w = static_cast<const Weight*>(m.weights) + panel * panel_size;
  const float* rows = x.values + row * x.stride;

  Lanes sums[R][P];
  for (int r = 0; r < R; ++r) for (int p = 0; p < P; ++p) sums[r][p] = broadcast(0.0f);
  for (int k = 0; k < m.inputs; ++k) {
    for (int p = 0; p < P; ++p) {
      const Lanes weights = load(w + p * panel_size + static_cast<int64_t>(k) * kPanel);
      for (int r = 0; r < R; ++r) sums[r][p] = multiply_add(weights, broadcast(rows[r * x.stride + k]), sums[r][p]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      const Lanes bias = load(m.bias + (panel + p) * kPanel);
      finish(out, row + r, panel + p, m.outputs, add(sums[r][p], bias));
    }
  }
}

template <class Weight>
struct FloatTile {
  static constexpr int kRows = kRowsFloat;
  template <int R, int P>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel) {
    float_tile<R, P, Weight>(m, x, out, row, panel);
  }
};

// Calls Tile with `rows` of 1 .. R as a constant, so that each count has its own unrolled loop.
template <class Tile, int R>
void run_rows(const MatrixView& m, const Activations& x, const Output& out, int rows, int row, int panel) {
  if constexpr (R > 1) {
    if (rows < R) return run_rows<Tile, R - 1>(m, x, out, rows, row, panel);
  }
  Tile::template run<R, 1>(m, x, out, row, panel);
}

// All tiles of a block. Panels outside, rows inside: a panel comes from memory once and stays in the cache.
template <class Tile>
void walk_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  if (row_end - row == 1) {
    for (; panel + kWidePanels <= panel_end; panel += kWidePanels) Tile::template run<1, kWidePanels>(m, x, out, row, panel);
  }
  for (; panel < panel_end; ++panel) {
    for (int r = row; r < row_end; r += Tile::kRows) {
      const int rows = row_end - r < Tile::kRows ? row_end - r : Tile::kRows;
      run_rows<Tile, Tile::kRows>(m, x, out, rows, r, panel);
    }
  }
}

}  // namespace
}  // namespace gpt2
