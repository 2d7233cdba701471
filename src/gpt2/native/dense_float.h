// Matrices in fp32 and bf16: float weights, float sums.
//
//   fp32: panel p, outputs 16p .. 16p+15         one load = 16 outputs of one input
//     input 0   | w[0][16p] w[0][16p+1] ... w[0][16p+15] |
//     input 1   | w[1][16p] w[1][16p+1] ... w[1][16p+15] |
//     ...
//     input K-1 | ...                                    |
//
//   bf16: inputs two by two, an odd K padded     one load = 16 outputs of two inputs
//     inputs 0, 1 | w[0][16p] w[1][16p] | w[0][16p+1] w[1][16p+1] | ... | w[0][16p+15] w[1][16p+15] |
//     inputs 2, 3 | ...
//
// A tile of R rows x P panels keeps its sums in registers and walks the inputs once, in order. So the sum of an
// output is ((x0 w0 + x1 w1) + x2 w2) + ... whatever the tile: R and P never change its bits. Where the level has
// products of pairs (GPT2_LANES_BF16), the rows of a bf16 matrix are rounded to bfloat16 beforehand, and a pair is
// one instruction.

#pragma once

namespace gpt2 {
namespace {

// The first `count` of one panel's results: store, add or gelu.
template <Finish F>
GPT2_INLINE void finish_as(float* y, int count, const Lanes& result) {
  if constexpr (F == Finish::store) store_first(y, result, count);
  if constexpr (F == Finish::add) store_first(y, add(load_first(y, count, 0.0f), result), count);
  if constexpr (F == Finish::gelu) store_first(y, gelu(result), count);
}

// One panel's results of one row; the last panel may be narrower than 16.
void finish(const Output& out, int row, int panel, int outputs, Lanes result) {
  float* y = out.values + row * out.stride + panel * kPanel;
  const int count = outputs - panel * kPanel;
  switch (out.finish) {
    case Finish::store: return finish_as<Finish::store>(y, count, result);
    case Finish::add: return finish_as<Finish::add>(y, count, result);
    case Finish::gelu: return finish_as<Finish::gelu>(y, count, result);
  }
}

// What a tile asks memory for while it multiplies: with line i of each of its panels' weights the line that lies
// from + i * stride bytes after the weights' beginning; with what stands before the weights, what lies `ahead`.
struct FetchPart {
  int64_t ahead, from, stride;

  // The tiles that pass over the same panels ask for a part each: memory works all the while, not for the first alone.
  FetchPart(int64_t bytes, int64_t lines, int tile, int tiles)
      : ahead(bytes), from(bytes), stride((kLine + tiles - 1) / tiles) { from += tile * lines * stride; }

  void before(const void* line) const { prefetch(static_cast<const char*>(line) + ahead); }
  void operator()(const void* weights, int64_t line) const { prefetch(static_cast<const char*>(weights) + from + line * stride); }
};

// The same where one tile asks for it all: the step of a line is then known to the compiler, which one row alone notices.
struct FetchAll {
  int64_t ahead;

  void before(const void* line) const { prefetch(static_cast<const char*>(line) + ahead); }
  void operator()(const void* weights, int64_t line) const { prefetch(static_cast<const char*>(weights) + ahead + kLine * line); }
};

// Asks for the lines of the panels that stand before group scales and weights.
template <int P, int Lines, class Fetch>
GPT2_INLINE void fetch_beginnings(const MatrixView& m, int panel, int step, const Fetch& fetch) {
  GPT2_UNROLL for (int p = 0; p < P; ++p) GPT2_UNROLL for (int line = 0; line < Lines; ++line) fetch.before(m.panel(panel + p * step) + line * kLine);
}

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
  static constexpr int kRows = kRowsFloat, kPanels = kPanelsFloat, kLineInputs = 1;

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
  static constexpr int kRows = kRowsFloat, kPanels = kPanelsFloat, kLineInputs = 2;

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

// Calls Tile with `rows` of 1 .. R as a constant, so that each count has its own unrolled loop.
template <class Tile, int R, int P>
void run_rows(const MatrixView& m, const Activations& x, const Output& out, int rows, int row, int panel, int step, const FetchPart& fetch) {
  if constexpr (R > 1) {
    if (rows < R) return run_rows<Tile, R - 1, P>(m, x, out, rows, row, panel, step, fetch);
  }
  Tile::template run<R, P>(m, x, out, row, panel, step, fetch);
}

// Of P panels, all tiles. They ask for the panels that come `ahead` after these.
template <class Tile, int P>
void walk_rows(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int step, int ahead) {
  const int tiles = (row_end - row + Tile::kRows - 1) / Tile::kRows;
  for (int tile = 0; tile < tiles; ++tile, row += Tile::kRows) {
    const int rows = row_end - row < Tile::kRows ? row_end - row : Tile::kRows;
    run_rows<Tile, Tile::kRows, P>(m, x, out, rows, row, panel, step, FetchPart(ahead * m.panel_bytes, m.padded_inputs / Tile::kLineInputs, tile, tiles));
  }
}

// A single row goes through memory so fast that it asks for what is near: of each of its streams the line 1.5 KB on.
constexpr int64_t kNear = 1536;

// All tiles of panels that lie `step` apart; none where there is no row, as in the last layer when nothing is wanted. What
// several rows ask for ahead is the panel after each, with which its stream goes on.
template <class Tile>
void walk_apart(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int step) {
  if (row_end - row != 1) return walk_rows<Tile, Tile::kPanels>(m, x, out, row, row_end, panel, step, 1);
  Tile::template run<1, kWidePanels>(m, x, out, row, panel, step, FetchAll{kNear});
}

// All tiles of a block. Panels outside, rows inside: a panel comes from memory once and stays in the cache.
template <class Tile>
void walk_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  for (; panel + Tile::kPanels <= panel_end; panel += Tile::kPanels) walk_rows<Tile, Tile::kPanels>(m, x, out, row, row_end, panel, 1, Tile::kPanels);
  for (; panel < panel_end; ++panel) walk_rows<Tile, 1>(m, x, out, row, row_end, panel, 1, 1);
}

}  // namespace
}  // namespace gpt2
