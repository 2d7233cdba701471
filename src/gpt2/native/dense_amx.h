// Matrices by tiles (AMX), from the same packed weights as the other levels.
//
//   A: 64 bytes of inputs of 16 rows        B: the same inputs of a panel, as it lies        C: sums, 32 bits each
//     row 0  | x0 .. x63          |           inputs 0..3   | o0 | o1 | .. | o15 |             row 0  | o0 .. o15 |
//     ...                                     ... 16 lines; bf16: 2 inputs in 4 bytes          ...
//     row 15 | x0 .. x63          |           inputs 60..63 | o0 | o1 | .. | o15 |             row 15 | o0 .. o15 |
//
// Of the eight tiles four are sums, 2 blocks of 16 rows x 2 panels, so that each A and each B serves two products. Inputs
// that fill no tile are copied beside zeros.
//
// int4: a weight is its code times the group's scale, 11 bits; in two bytes, of the scale's upper and lower four bits,
//
//   scale * code = 16 * (scale / 16 * code) + (scale % 16 * code)
//
// it is two panels of int8, made once for all rows and multiplied side by side.
//
// int8 and int4 are exact, so few rows go the way of the other levels, which is shorter. A bf16 product rounds in an order
// of its own: there all numbers of rows go through tiles, and a row's bits depend on it alone.

#pragma once

namespace gpt2 {
namespace {

constexpr int kTileLines = 16, kTileBytes = 64, kTileSize = kTileLines * kTileBytes;
constexpr int kFewestRowsInt8 = 8, kFewestRowsInt4 = 10;   // below, the other way is as fast or faster

// What the tiles of a row block ask memory for while they multiply: their part of the panels that come next, so many
// lines with each tile of inputs.
struct PanelsAhead {
  const unsigned char* at;
  int lines;

  // `next` begins what is asked for with the first of `tiles`; each has so many lines for all blocks together.
  PanelsAhead(const unsigned char* next, int tile_lines, int64_t tiles, int block, int blocks) : lines((tile_lines + blocks - 1) / blocks) {
    at = next + block * tiles * lines * kLine;
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

template <Finish F, class Products>
inline void finish_rows(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel, const uint8_t* sums) {
  const int count = m.outputs - panel * kPanel;
  float* y = out.values + row * out.stride + panel * kPanel;
  for (int r = 0; r < rows; ++r, y += out.stride) finish_as<F>(y, count, Products::result(m, x, row + r, panel, sums + r * kTileBytes));
}

template <class Products, int T>
inline void finish_tile(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel) {
  alignas(64) uint8_t sums[kTileSize];
  tile_store<T>(sums, kTileBytes);
  switch (out.finish) {
    case Finish::store: return finish_rows<Finish::store, Products>(m, x, out, row, rows, panel, sums);
    case Finish::add: return finish_rows<Finish::add, Products>(m, x, out, row, rows, panel, sums);
    case Finish::gelu: return finish_rows<Finish::gelu, Products>(m, x, out, row, rows, panel, sums);
  }
}

template <class Products, int Blocks, int P>
void run_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel, PanelsAhead ahead) {
  const int64_t row_bytes = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes;
  const uint8_t* a = static_cast<const uint8_t*>(Products::row(x, row));
  const int64_t a_stride = Products::row_stride(x);
  const uint8_t* b = m.weights(panel);

  zero_sums<Blocks, P>();
  int64_t done = 0;
  for (; done + kTileBytes <= row_bytes; done += kTileBytes) {
    multiply_tiles<Products, Blocks, P>(a + done, a_stride, b + done * kPanel, m.panel_bytes);
    ahead();
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

// Calls f(row, rows, block) for blocks of up to 32 rows, with tiles of that shape. `shaped` is the rows that they have the
// shape for, 0 before the first: giving them another takes as long as some products.
template <class F>
inline void for_row_blocks(int row, int row_end, int& shaped, const F& f) {
  for (int block = 0; row < row_end; row += 2 * kTileLines, ++block) {
    const int rows = row_end - row < 2 * kTileLines ? row_end - row : 2 * kTileLines;
    if (rows != shaped) tiles_begin(shapes_of(rows < kTileLines ? rows : kTileLines, rows - kTileLines, kTileBytes, kTileLines));
    shaped = rows;
    f(row, rows, block);
  }
}

inline int row_blocks(int rows) { return (rows + 2 * kTileLines - 1) / (2 * kTileLines); }

// Panels outside, rows inside: the panels come from memory once and stay in the cache.
template <class Products, int P>
void walk_row_blocks(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int& shaped) {
  const int64_t tiles = static_cast<int64_t>(m.padded_inputs) * Products::kInputBytes / kTileBytes;
  for_row_blocks(row, row_end, shaped, [&](int first, int rows, int block) {
    const PanelsAhead ahead(m.panel(panel + P), P * kTileLines, tiles, block, row_blocks(row_end - row));
    if (rows > kTileLines) run_tiles<Products, 2, P>(m, x, out, first, rows, panel, ahead);
    else run_tiles<Products, 1, P>(m, x, out, first, rows, panel, ahead);
  });
}

template <class Products>
void walk_products(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  int shaped = 0;
  for (; panel + 2 <= panel_end; panel += 2) walk_row_blocks<Products, 2>(m, x, out, row, row_end, panel, shaped);
  for (; panel < panel_end; ++panel) walk_row_blocks<Products, 1>(m, x, out, row, row_end, panel, shaped);
  tiles_end();
}

// ---- int4 ----

constexpr int kInputsInt4 = 1024;                              // that are made two bytes at once: they stay in the first cache
constexpr int kRowsOfSums = 256;

// The group's scale times 16 codes of four inputs each, as the upper and the lower byte of four bits of the scale.
struct GroupBytes {
  __m512i scales, offsets;   // of pairs of bytes: a scale times both codes is one product of 16 bits, for codes of 0 to 15

  explicit GroupBytes(__m512i four_bits)
      : scales(_mm512_mullo_epi32(four_bits, _mm512_set1_epi32(0x10001))), offsets(_mm512_mullo_epi32(four_bits, _mm512_set1_epi32(0x08080808))) {}
  __m512i of(const Codes& codes) const { return _mm512_sub_epi8(_mm512_mullo_epi16(codes.v, scales), offsets); }
};

// Of a panel the groups [group, group_end), as two panels of int8.
inline void make_bytes(const MatrixView& m, int panel, int group, int group_end, int8_t* upper, int8_t* lower) {
  const uint8_t* scales = m.group_scales(panel);
  for (; group < group_end; ++group) {
    const int8_t* w = reinterpret_cast<const int8_t*>(m.weights(panel)) + group * (kGroup * kPanel / 2);
    const __m512i scale = load_scales(scales + group * kPanel).v;
    const GroupBytes high(_mm512_srli_epi32(scale, 4)), low(_mm512_and_si512(scale, _mm512_set1_epi32(15)));
    GPT2_UNROLL for (int k = 0; k < kGroup; k += 8, w += kTileBytes, upper += 2 * kTileBytes, lower += 2 * kTileBytes) {
      const Codes both = load_codes(w), first = low_nibbles(both), second = high_nibbles(both);
      _mm512_store_si512(upper, high.of(first));
      _mm512_store_si512(lower, low.of(first));
      _mm512_store_si512(upper + kTileBytes, high.of(second));
      _mm512_store_si512(lower + kTileBytes, low.of(second));
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

template <Finish F>
void finish_int4(const MatrixView& m, const Activations& x, const Output& out, int row, int rows, int panel, const Int4Sums& sums) {
  const int count = m.outputs - panel * kPanel;
  float* y = out.values + row * out.stride + panel * kPanel;
  for (int r = 0; r < rows; ++r, y += out.stride) finish_as<F>(y, count, Int8Tile::result(m, x, row + r, panel, sums.of_row(r)));
}

// Where the last inputs fill half a tile, the other half of the weights is zeros, whatever follows in the rows.
template <int Blocks>
inline void add_products_int4(const Activations& x, int row, int input, int end, int block, const uint8_t* upper, int64_t lower, Int4Sums& sums, PanelsAhead ahead) {
  if (input == 0) zero_sums<Blocks, 2>();
  else sums.to_tiles<Blocks>(block);
  const uint8_t* a = static_cast<const uint8_t*>(Int8Products::row(x, row));
  for (int k = input; k < end; k += kTileBytes) {
    multiply_tiles<Int8Products, Blocks, 2>(a + k, x.code_stride, upper + (k - input) * kPanel, lower);
    ahead();
  }
  sums.from_tiles<Blocks>(block);
}

void run_int4_panel(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int& shaped) {
  alignas(64) int8_t bytes[2][kInputsInt4 * kPanel];
  Int4Sums sums;
  const int blocks = row_blocks(row_end - row);
  for (int input = 0; input < m.padded_inputs; input += kInputsInt4) {
    const int end = input + kInputsInt4 < m.padded_inputs ? input + kInputsInt4 : m.padded_inputs, inputs = end - input;
    make_bytes(m, panel, input / kGroup, end / kGroup, bytes[0], bytes[1]);
    if (inputs % kTileBytes) for (int8_t* half : bytes) std::memset(half + inputs * kPanel, 0, kGroup * kPanel);
    for_row_blocks(row, row_end, shaped, [&](int first, int rows, int block) {
      const PanelsAhead ahead(m.weights(panel + 1) + input * (kPanel / 2), kTileLines / 2, inputs / kTileBytes, block, blocks);
      const uint8_t* upper = reinterpret_cast<const uint8_t*>(bytes[0]);
      if (rows > kTileLines) add_products_int4<2>(x, first, input, end, block, upper, sizeof bytes[0], sums, ahead);
      else add_products_int4<1>(x, first, input, end, block, upper, sizeof bytes[0], sums, ahead);
    });
  }
  switch (out.finish) {
    case Finish::store: return finish_int4<Finish::store>(m, x, out, row, row_end - row, panel, sums);
    case Finish::add: return finish_int4<Finish::add>(m, x, out, row, row_end - row, panel, sums);
    case Finish::gelu: return finish_int4<Finish::gelu>(m, x, out, row, row_end - row, panel, sums);
  }
}

void walk_int4(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  int shaped = 0;
  for (; panel < panel_end; ++panel) {
    for (int r = row; r < row_end; r += kRowsOfSums) run_int4_panel(m, x, out, r, row_end - r < kRowsOfSums ? row_end : r + kRowsOfSums, panel, shaped);
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
