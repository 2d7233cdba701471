// Matrices by tiles (AMX), from the same packed weights as the other levels.
//
//   A: 64 bytes of inputs of 16 rows        B: the same inputs of a panel, as it lies        C: sums, 32 bits each
//     row 0  | x0 .. x63          |           inputs 0..3   | o0 | o1 | .. | o15 |             row 0  | o0 .. o15 |
//     ...                                     ... 16 lines; bf16: 2 inputs in 4 bytes          ...
//     row 15 | x0 .. x63          |           inputs 60..63 | o0 | o1 | .. | o15 |             row 15 | o0 .. o15 |
//
// Four of the eight tiles are sums, 2 blocks of 16 rows x 2 panels, so that each A and each B serves two products. Inputs
// that do not fill a tile are copied and padded with zeros.
//
// A bf16 tile product rounds in its own order, so every number of rows goes through tiles, and a row's bits depend only on
// the row. int8 and int4 (dense_amx_int4.h) are exact, so few rows take the other levels' code, which is faster for them.

#pragma once

namespace gpt2 {
namespace {

constexpr int kTileLines = 16, kTileBytes = 64, kTileSize = kTileLines * kTileBytes;

// FetchPart and FetchAll of dense.h for tiles, which read 16 lines of a panel at once: with each step of the inputs, a block
// of rows prefetches as many lines of its part of the next panels. `all_lines` is a step's number of lines for all blocks.
struct FetchLines {
  const unsigned char* at;
  int lines;

  FetchLines(const unsigned char* next, int all_lines, int64_t steps, int block, int blocks) : lines((all_lines + blocks - 1) / blocks) {
    at = next + block * steps * lines * kLine;
  }

  GPT2_INLINE void operator()() { for (int i = 0; i < lines; ++i, at += kLine) prefetch(at); }
};

struct Int8Products {
  template <int C, int A, int B> static void dot() { tile_dot_int8<C, A, B>(); }
  static const void* row(const Activations& x, int row) { return x.codes + row * x.code_stride; }
  static int64_t row_stride(const Activations& x) { return x.code_stride; }
  static constexpr int kInputBytes = 1;
  static Lanes result(const MatrixView& m, const Activations& x, int row, int panel, const void* sums) {
    return Int8Tile::result(m, x, row, panel, {_mm512_loadu_si512(sums)});
  }
};

struct Bf16Products {
  template <int C, int A, int B> static void dot() { tile_dot_bf16<C, A, B>(); }
  static const void* row(const Activations& x, int row) { return x.rounded + row * x.rounded_stride; }
  static int64_t row_stride(const Activations& x) { return x.rounded_stride * 2; }
  static constexpr int kInputBytes = 2;
  static Lanes result(const MatrixView& m, const Activations&, int, int panel, const void* sums) {
    return add(load(static_cast<const float*>(sums)), load(m.bias(panel)));
  }
};

// Tiles: sums 0 1 / 2 3 of row blocks 4, 5 and panels 6, 7; `lower` = 0 rows: no second block.
inline TileShapes shapes_of(int upper, int lower, int a_bytes, int b_lines) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) {
    const int rows = t == 2 || t == 3 || t == 5 ? (lower > 0 ? lower : 1) : upper;
    shapes.lines[t] = static_cast<uint8_t>(t < 6 ? rows : b_lines);
    shapes.bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? a_bytes : kTileBytes);
  }
  return shapes;
}

template <class Products, int Blocks, int P>
inline void multiply_tiles(const uint8_t* a, int64_t a_stride, const uint8_t* b, int64_t b_panel) {
  tile_load<6>(b, kTileBytes);
  tile_load<4>(a, a_stride);
  if constexpr (P == 2) tile_load<7>(b + b_panel, kTileBytes);
  if constexpr (Blocks == 2) tile_load<5>(a + kTileLines * a_stride, a_stride);
  Products::template dot<0, 4, 6>();
  if constexpr (P == 2) Products::template dot<1, 4, 7>();
  if constexpr (Blocks == 2) Products::template dot<2, 5, 6>();
  if constexpr (Blocks == 2 && P == 2) Products::template dot<3, 5, 7>();
}

template <int Blocks, int P>
inline void zero_sums() {
  tile_zero<0>();
  if constexpr (P == 2) tile_zero<1>();
  if constexpr (Blocks == 2) tile_zero<2>();
  if constexpr (Blocks == 2 && P == 2) tile_zero<3>();
}

// Results of up to four finished tiles. A few of their rows at a time are processed between the next products, so that
// tile and vector units work in parallel.
template <class Products>
class Unfinished {
 public:
  Unfinished(const MatrixView& m, const Activations& x, const Output& out) : m_(m), x_(x), out_(out) {}

  template <int T>
  void take(int row, int rows, int panel) {
    tile_store<T>(sums_[count_], kTileBytes);
    tiles_[count_++] = {row, rows, panel};
    left_ += rows;
  }

  GPT2_INLINE void finish(int rows) {
    while (rows > 0 && left_ > 0) {
      const Tile& tile = tiles_[at_];
      const int count = rows < tile.rows - done_ ? rows : tile.rows - done_;
      const uint8_t* sums = sums_[at_] + done_ * kTileBytes;
      const int row = tile.row + done_;
      finish_rows(m_, out_, row, count, tile.panel, [&](int r) { return Products::result(m_, x_, row + r, tile.panel, sums + r * kTileBytes); });
      rows -= count;
      left_ -= count;
      done_ += count;
      if (done_ == tile.rows) ++at_, done_ = 0;
    }
  }

  void finish_all() {
    finish(left_);
    count_ = at_ = 0;
  }

  int left() const { return left_; }

 private:
  struct Tile { int row, rows, panel; };

  alignas(64) uint8_t sums_[4][kTileSize];
  Tile tiles_[4];
  int count_ = 0, at_ = 0, done_ = 0, left_ = 0;   // done_: rows of tile at_
  const MatrixView& m_;
  const Activations& x_;
  const Output& out_;
};

template <class Products, int Blocks, int P, class Fetch>
void run_tiles(const MatrixView& m, const Activations& x, int row, int rows, int panel, Fetch fetch, Unfinished<Products>& unfinished) {
  const int64_t bytes = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes;
  const uint8_t* a = static_cast<const uint8_t*>(Products::row(x, row));
  const int64_t a_stride = Products::row_stride(x);
  const uint8_t* b = m.weights(panel);

  zero_sums<Blocks, P>();
  const int at_once = static_cast<int>((unfinished.left() * kTileBytes + bytes - 1) / bytes);
  int64_t done = 0;
  for (; done + kTileBytes <= bytes; done += kTileBytes) {
    multiply_tiles<Products, Blocks, P>(a + done, a_stride, b + done * kPanel, m.panel_bytes);
    fetch();
    unfinished.finish(at_once);
  }
  if (const int64_t left = bytes - done) {
    alignas(64) uint8_t a_left[2 * kTileSize] = {}, b_left[2 * kTileSize] = {};
    for (int r = 0; r < rows; ++r) std::memcpy(a_left + r * kTileBytes, a + r * a_stride + done, static_cast<size_t>(left));
    for (int p = 0; p < P; ++p) std::memcpy(b_left + p * kTileSize, b + p * m.panel_bytes + done * kPanel, static_cast<size_t>(left * kPanel));
    multiply_tiles<Products, Blocks, P>(a_left, kTileBytes, b_left, kTileSize);
  }

  unfinished.finish_all();
  const int first = rows < kTileLines ? rows : kTileLines;
  unfinished.template take<0>(row, first, panel);
  if constexpr (P == 2) unfinished.template take<1>(row, first, panel + 1);
  if constexpr (Blocks == 2) unfinished.template take<2>(row + kTileLines, rows - kTileLines, panel);
  if constexpr (Blocks == 2 && P == 2) unfinished.template take<3>(row + kTileLines, rows - kTileLines, panel + 1);
}

// Configures the tiles, and releases them at the end.
class TilesInUse {
 public:
  TilesInUse() = default;
  explicit TilesInUse(const TileShapes& shapes) { shape(shapes); }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;
  ~TilesInUse() { if (in_use_) tiles_end(); }

  // Shapes the tiles for up to 32 rows, unless they have that shape: reconfiguring takes as long as several products.
  void hold(int rows) {
    if (rows == rows_) return;
    shape(shapes_of(rows < kTileLines ? rows : kTileLines, rows - kTileLines, kTileBytes, kTileLines));
    rows_ = rows;
  }

 private:
  void shape(const TileShapes& shapes) {
    tiles_begin(shapes);
    in_use_ = true;
  }

  bool in_use_ = false;
  int rows_ = 0;
};

// Calls f(row, rows, block) for blocks of up to 32 rows, with tiles of that shape.
template <class F>
inline void for_row_blocks(int row, int row_end, TilesInUse& tiles, const F& f) {
  for (int block = 0; row < row_end; row += 2 * kTileLines, ++block) {
    const int rows = row_end - row < 2 * kTileLines ? row_end - row : 2 * kTileLines;
    tiles.hold(rows);
    f(row, rows, block);
  }
}

inline int row_blocks(int rows) { return (rows + 2 * kTileLines - 1) / (2 * kTileLines); }

// Panels in the outer loop, rows in the inner: the panels are read from memory once and stay in cache.
template <class Products, int P>
void walk_row_blocks(const MatrixView& m, const Activations& x, int row, int row_end, int panel, TilesInUse& tiles, Unfinished<Products>& unfinished) {
  const int64_t steps = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes / kTileBytes;
  for_row_blocks(row, row_end, tiles, [&](int first, int rows, int block) {
    const FetchLines fetch(m.panel(panel + P), P * kTileLines, steps, block, row_blocks(row_end - row));
    if (rows > kTileLines) run_tiles<Products, 2, P>(m, x, first, rows, panel, fetch, unfinished);
    else run_tiles<Products, 1, P>(m, x, first, rows, panel, fetch, unfinished);
  });
}

template <class Products>
void walk_products(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  TilesInUse tiles;
  Unfinished<Products> unfinished(m, x, out);
  for (; panel + 2 <= panel_end; panel += 2) walk_row_blocks<Products, 2>(m, x, row, row_end, panel, tiles, unfinished);
  for (; panel < panel_end; ++panel) walk_row_blocks<Products, 1>(m, x, row, row_end, panel, tiles, unfinished);
  unfinished.finish_all();
}

// Few rows and four panels `step` apart, one stream each: sums in tiles 0 to 3, A in 4, B alternately in 6 and 7.
template <class Products>
inline void multiply_streams(const uint8_t* a, int64_t a_stride, const uint8_t* b, int64_t apart) {
  tile_load<4>(a, a_stride);
  tile_load<6>(b, kTileBytes);
  Products::template dot<0, 4, 6>();
  tile_load<7>(b + apart, kTileBytes);
  Products::template dot<1, 4, 7>();
  tile_load<6>(b + 2 * apart, kTileBytes);
  Products::template dot<2, 4, 6>();
  tile_load<7>(b + 3 * apart, kTileBytes);
  Products::template dot<3, 4, 7>();
}

constexpr int kStreams = 4;
constexpr int64_t kNearTiles = kNear;   // measured here too: 4 and 8 KB are 2 % slower

template <class Products>
void run_streams(const MatrixView& m, const Activations& x, int row, int rows, int panel, int step, Unfinished<Products>& unfinished) {
  const int64_t bytes = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes, apart = step * m.panel_bytes;
  const uint8_t* a = static_cast<const uint8_t*>(Products::row(x, row));
  const int64_t a_stride = Products::row_stride(x);
  const uint8_t* b = m.weights(panel);

  zero_sums<2, 2>();
  int64_t done = 0;
  for (; done + kTileBytes <= bytes; done += kTileBytes) {
    const uint8_t* lines = b + done * kPanel;
    multiply_streams<Products>(a + done, a_stride, lines, apart);
    for (int line = 0; line < kTileLines; ++line) {
      for (int stream = 0; stream < kStreams; ++stream) prefetch(lines + kNearTiles + line * kLine + stream * apart);
    }
  }
  if (const int64_t left = bytes - done) {
    alignas(64) uint8_t a_left[kTileSize] = {}, b_left[kStreams * kTileSize] = {};
    for (int r = 0; r < rows; ++r) std::memcpy(a_left + r * kTileBytes, a + r * a_stride + done, static_cast<size_t>(left));
    for (int p = 0; p < kStreams; ++p) std::memcpy(b_left + p * kTileSize, b + p * apart + done * kPanel, static_cast<size_t>(left * kPanel));
    multiply_streams<Products>(a_left, kTileBytes, b_left, kTileSize);
  }
  unfinished.template take<0>(row, rows, panel);
  unfinished.template take<1>(row, rows, panel + step);
  unfinished.template take<2>(row, rows, panel + 2 * step);
  unfinished.template take<3>(row, rows, panel + 3 * step);
  unfinished.finish_all();
}

template <class Products>
void walk_products_apart(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end, int step) {
  const int rows = row_end - row;
  const TilesInUse tiles(shapes_of(rows, rows, kTileBytes, kTileLines));
  Unfinished<Products> unfinished(m, x, out);
  for (; panel < panel_end; ++panel) run_streams<Products>(m, x, row, rows, panel, step, unfinished);
}

}  // namespace
}  // namespace gpt2
