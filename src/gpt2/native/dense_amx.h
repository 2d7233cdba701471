// Matrices by tiles (AMX), from the same packed weights as the other levels.
//
//   A: 64 bytes of inputs of 16 rows        B: the same inputs of a panel, as it lies        C: sums, 32 bits each
//     row 0  | x0 .. x63          |           inputs 0..3   | o0 | o1 | .. | o15 |             row 0  | o0 .. o15 |
//     ...                                     ... 16 lines; bf16: 2 inputs in 4 bytes          ...
//     row 15 | x0 .. x63          |           inputs 60..63 | o0 | o1 | .. | o15 |             row 15 | o0 .. o15 |
//
// Of the eight tiles four are sums, 2 blocks of 16 rows x 2 panels, so that each A and each B serves two products. Inputs
// that fill no tile are copied beside zeros. int4: a group of 32 inputs becomes bytes, is multiplied alone, and its sums
// are scaled in AVX-512 registers.
//
// int8 and int4 are exact, so few rows go the way of the other levels, which is shorter. A bf16 product rounds in an order
// of its own: there all numbers of rows go through tiles, and a row's bits depend on it alone.

#pragma once

namespace gpt2 {
namespace {

constexpr int kTileLines = 16, kTileBytes = 64, kTileSize = kTileLines * kTileBytes;
constexpr int kFewestRowsInt8 = 4, kFewestRowsInt4 = 8;

struct Int8Products {
  template <int C, int A, int B> static void dot() { tile_dot_int8<C, A, B>(); }
  static const void* row(const Activations& x, int row) { return x.codes + row * x.code_stride; }
  static int64_t row_stride(const Activations& x) { return x.code_stride; }
  static constexpr int kInputBytes = 1;
  static void finish_row(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, const void* sums) {
    Int8Tile::finish_whole(m, x, out, row, panel, {_mm512_loadu_si512(sums)});
  }
};

struct Bf16Products {
  template <int C, int A, int B> static void dot() { tile_dot_bf16<C, A, B>(); }
  static const void* row(const Activations& x, int row) { return x.rounded + row * x.rounded_stride; }
  static int64_t row_stride(const Activations& x) { return x.rounded_stride * 2; }
  static constexpr int kInputBytes = 2;
  static void finish_row(const MatrixView& m, const Activations&, const Output& out, int row, int panel, const void* sums) {
    finish(out, row, panel, m.outputs, add(load(static_cast<const float*>(sums)), load(m.bias(panel))));
  }
};

// Sums 0 1 / 2 3 of row blocks 4, 5 and panels 6, 7; `lower` rows of 0 leave the second block alone.
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
  tile_load<4>(a, a_stride);
  tile_load<6>(b, kTileBytes);
  Products::template dot<0, 4, 6>();
  if constexpr (P == 2) {
    tile_load<7>(b + b_panel, kTileBytes);
    Products::template dot<1, 4, 7>();
  }
  if constexpr (Blocks == 2) {
    tile_load<5>(a + kTileLines * a_stride, a_stride);
    Products::template dot<2, 5, 6>();
    if constexpr (P == 2) Products::template dot<3, 5, 7>();
  }
}

template <class Products, int T>
inline void finish_tile(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel) {
  alignas(64) uint8_t sums[kTileSize];
  tile_store<T>(sums, kTileBytes);
  for (int r = 0; r < rows; ++r) Products::finish_row(m, x, out, row + r, panel, sums + r * kTileBytes);
}

template <class Products, int Blocks, int P>
void run_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel, bool ask_ahead) {
  const int64_t row_bytes = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes;
  const uint8_t* a = static_cast<const uint8_t*>(Products::row(x, row));
  const int64_t a_stride = Products::row_stride(x);
  const uint8_t* b = m.weights(panel);

  tile_zero<0>();
  if constexpr (P == 2) tile_zero<1>();
  if constexpr (Blocks == 2) tile_zero<2>();
  if constexpr (Blocks == 2 && P == 2) tile_zero<3>();
  int64_t done = 0;
  for (; done + kTileBytes <= row_bytes; done += kTileBytes) {
    const uint8_t* here = b + done * kPanel;
    if (ask_ahead) {
      for (int p = 0; p < P; ++p) for (int line = 0; line < kTileLines; ++line) prefetch(here + (P + p) * m.panel_bytes + line * kTileBytes);
    }
    multiply_tiles<Products, Blocks, P>(a + done, a_stride, here, m.panel_bytes);
  }
  if (const int64_t left = row_bytes - done) {
    alignas(64) uint8_t a_left[2 * kTileSize] = {}, b_left[2 * kTileSize] = {};
    for (int r = 0; r < rows; ++r) std::memcpy(a_left + r * kTileBytes, a + r * a_stride + done, static_cast<size_t>(left));
    for (int p = 0; p < P; ++p) std::memcpy(b_left + p * kTileSize, b + p * m.panel_bytes + done * kPanel, static_cast<size_t>(left * kPanel));
    multiply_tiles<Products, Blocks, P>(a_left, kTileBytes, b_left, kTileSize);
  }

  const int upper = rows < kTileLines ? rows : kTileLines;
  finish_tile<Products, 0>(m, x, out, row, upper, panel);
  if constexpr (P == 2) finish_tile<Products, 1>(m, x, out, row, upper, panel + 1);
  if constexpr (Blocks == 2) finish_tile<Products, 2>(m, x, out, row + kTileLines, rows - kTileLines, panel);
  if constexpr (Blocks == 2 && P == 2) finish_tile<Products, 3>(m, x, out, row + kTileLines, rows - kTileLines, panel + 1);
}

// Panels outside, rows inside: the panels come from memory once and stay in the cache.
template <class Products, int P>
void walk_row_blocks(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel) {
  bool first = true;
  int shaped = 0;   // rows that the tiles have the shape for
  for (; row < row_end; row += 2 * kTileLines, first = false) {
    const int rows = row_end - row < 2 * kTileLines ? row_end - row : 2 * kTileLines;
    if (rows != shaped) tiles_begin(shapes_of(rows < kTileLines ? rows : kTileLines, rows - kTileLines, kTileBytes, kTileLines));
    shaped = rows;
    if (rows > kTileLines) run_tiles<Products, 2, P>(m, x, out, row, rows, panel, first);
    else run_tiles<Products, 1, P>(m, x, out, row, rows, panel, first);
  }
}

template <class Products>
void walk_products(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  for (; panel + 2 <= panel_end; panel += 2) walk_row_blocks<Products, 2>(m, x, out, row, row_end, panel);
  for (; panel < panel_end; ++panel) walk_row_blocks<Products, 1>(m, x, out, row, row_end, panel);
  tiles_end();
}

// One panel, up to 16 rows: each group's product alone, and added to the sums by its scale.
void run_int4_tile(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel) {
  const int groups = m.padded_inputs / kGroup;
  constexpr int64_t group_bytes = kGroup * kPanel / 2;
  const int8_t* w = reinterpret_cast<const int8_t*>(m.weights(panel));
  const uint8_t* scales = m.group_scales(panel);
  const int8_t* codes = x.codes + row * x.code_stride;
  const __m512i eight = _mm512_set1_epi8(8);

  Sums sums[kTileLines] = {};
  alignas(64) int8_t whole[kGroup * kPanel];
  alignas(64) int32_t products[kTileLines * kPanel];
  for (int g = 0; g < groups; ++g) {
    for (int k = 0; k < kGroup; k += 8) {
      const Codes both = load_codes(w + g * group_bytes + k * (kPanel / 2));
      _mm512_store_si512(whole + k * kPanel, _mm512_sub_epi8(low_nibbles(both).v, eight));
      _mm512_store_si512(whole + (k + 4) * kPanel, _mm512_sub_epi8(high_nibbles(both).v, eight));
    }
    tile_zero<0>();
    tile_load<4>(codes + g * kGroup, x.code_stride);
    tile_load<6>(whole, kTileBytes);
    tile_dot_int8<0, 4, 6>();
    tile_store<0>(products, kTileBytes);
    const Scales scale = load_scales(scales + static_cast<int64_t>(g) * kPanel);
    for (int r = 0; r < rows; ++r) sums[r] = add_scaled(sums[r], {_mm512_load_si512(products + r * kPanel)}, scale);
  }
  for (int r = 0; r < rows; ++r) Int8Tile::finish_whole(m, x, out, row + r, panel, sums[r]);
}

void walk_int4(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  for (; panel < panel_end; ++panel) {
    int shaped = 0;
    for (int r = row; r < row_end; r += kTileLines) {
      const int rows = row_end - r < kTileLines ? row_end - r : kTileLines;
      if (rows != shaped) tiles_begin(shapes_of(rows, 0, kGroup, kGroup / 4));
      shaped = rows;
      run_int4_tile(m, x, out, r, rows, panel);
    }
  }
  tiles_end();
}

// Products of full tiles that are loaded once: the most that these kernels could reach.
int64_t products_of_tiles(Form form, int64_t rounds) {
  if (form == Form::fp32) return products(form, rounds);
  tiles_begin(shapes_of(kTileLines, kTileLines, kTileBytes, kTileLines));
  for (int64_t round = 0; round < rounds; ++round) {
    if (form == Form::bf16) {
      tile_dot_bf16<0, 4, 6>();
      tile_dot_bf16<1, 4, 7>();
      tile_dot_bf16<2, 5, 6>();
      tile_dot_bf16<3, 5, 7>();
    } else {
      tile_dot_int8<0, 4, 6>();
      tile_dot_int8<1, 4, 7>();
      tile_dot_int8<2, 5, 6>();
      tile_dot_int8<3, 5, 7>();
    }
  }
  tiles_end();
  return rounds * 4 * kTileLines * kPanel * (form == Form::bf16 ? 32 : 64);
}

// Where products go by tiles, panels go in pairs.
int side_by_side_without_tiles(Form form, int rows) {
  const bool tiles = form == Form::bf16 || (form == Form::int8 && rows >= kFewestRowsInt8) || (form == Form::int4 && rows >= kFewestRowsInt4);
  return tiles ? 0 : side_by_side(form, rows);
}

void dense_by_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  const int rows = row_end - row;
  if (rows == 0 || panel >= panel_end) return;
  if (m.form == Form::bf16) return walk_products<Bf16Products>(m, x, out, row, row_end, panel, panel_end);
  if (m.form == Form::int8 && rows >= kFewestRowsInt8) return walk_products<Int8Products>(m, x, out, row, row_end, panel, panel_end);
  if (m.form == Form::int4 && rows >= kFewestRowsInt4) return walk_int4(m, x, out, row, row_end, panel, panel_end);
  dense(m, x, out, row, row_end, panel, panel_end);
}

}  // namespace
}  // namespace gpt2
