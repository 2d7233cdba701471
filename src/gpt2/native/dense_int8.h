// Matrices in int8: a scale for each output, a scale for each row of activations, whole sums in 32 bits.
//
//   panel p, inputs four by four                 one load = 16 outputs x 4 inputs, 64 bytes
//     inputs 0..3 | o0: k0 k1 k2 k3 | o1: k0 k1 k2 k3 | ... | o15: k0 k1 k2 k3 |
//     inputs 4..7 | o0: k4 k5 k6 k7 | ...
//
// Four neighbouring inputs of an output are what every dot-product instruction adds into one 32-bit sum
// (VNNI, AMX, NEON), so this is the layout for all of them. y = sum * (row scale * activation scale) + bias.

#pragma once

namespace gpt2 {
namespace {

struct Int8Tile {
  static constexpr int kRows = kRowsInt8, kPanels = kPanelsInt8;

  template <int R, int P>
  static void run(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int ahead) {
    run_part<R, P>(m, x, out, row, panel, ahead, 0, m.padded_inputs, nullptr);
  }

  // Inputs [begin, end) of a tile. Sums before the last input are kept for the next part: whole numbers, so exact.
  template <int R, int P>
  static void run_part(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, int ahead, int begin, int end, Sums* kept) {
    const int64_t panel_size = static_cast<int64_t>(m.padded_inputs) * kPanel, next = ahead * panel_size;
    const int8_t* w = static_cast<const int8_t*>(m.weights) + panel * panel_size;
    const int8_t* rows = x.codes + row * x.code_stride;

    Sums sums[R][P];
    GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = begin == 0 ? start_sums(x.code_sums[row + r]) : kept[r * P + p];
    for (int k = begin; k < end; k += 4) {
      Codes weights[P];
      GPT2_UNROLL for (int p = 0; p < P; ++p) {
        const int8_t* here = w + p * panel_size + static_cast<int64_t>(k) * kPanel;
        weights[p] = load_weights(here);
        prefetch(here + next);
      }
      GPT2_UNROLL for (int r = 0; r < R; ++r) {
        const Quad four = broadcast_quad(rows + r * x.code_stride + k);
        GPT2_UNROLL for (int p = 0; p < P; ++p) sums[r][p] = dot4(sums[r][p], weights[p], four);
      }
    }
    if (end < m.padded_inputs) {
      GPT2_UNROLL for (int r = 0; r < R; ++r) GPT2_UNROLL for (int p = 0; p < P; ++p) kept[r * P + p] = sums[r][p];
      return;
    }
    GPT2_UNROLL for (int r = 0; r < R; ++r) {
      GPT2_UNROLL for (int p = 0; p < P; ++p) finish_whole(m, x, out, row + r, panel + p, sums[r][p]);
    }
  }

  static void finish_whole(const MatrixView& m, const Activations& x, const Output& out, int row, int panel, Sums sums) {
    const Lanes scale = mul(load(m.row_scales + panel * kPanel), broadcast(x.scales[row]));
    const Lanes scaled = mul(to_lanes(sums), scale);
    finish(out, row, panel, m.outputs, add(scaled, load(m.bias + panel * kPanel)));
  }
};

// Many rows: the weights of P panels would pass over from the second cache for every tile, faster than it gives them.
// So they are taken in parts that stay in the first, and all tiles of a part come before the next.
constexpr int kPartBytes = 18 << 10, kPartTiles = 16;

template <int P>
void walk_parts(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel) {
  constexpr int R = Int8Tile::kRows, part = kPartBytes / (P * kPanel) / 4 * 4;
  Sums kept[kPartTiles * R * P];
  for (int ahead = P; row + R <= row_end; ahead = 0) {
    const int left = (row_end - row) / R, tiles = left < kPartTiles ? left : kPartTiles;
    for (int begin = 0; begin < m.padded_inputs; begin += part) {
      const int end = m.padded_inputs - begin < part ? m.padded_inputs : begin + part;
      for (int tile = 0; tile < tiles; ++tile) {
        Int8Tile::run_part<R, P>(m, x, out, row + tile * R, panel, tile == 0 ? ahead : 0, begin, end, kept + tile * R * P);
      }
    }
    row += tiles * R;
  }
  if (row < row_end) run_rows<Int8Tile, R, P>(m, x, out, row_end - row, row, panel, 0);
}

void walk_int8(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  constexpr int P = Int8Tile::kPanels;
  if (row_end - row > 2 * Int8Tile::kRows) {
    for (; panel + P <= panel_end; panel += P) walk_parts<P>(m, x, out, row, row_end, panel);
  }
  walk_tiles<Int8Tile>(m, x, out, row, row_end, panel, panel_end);
}

}  // namespace
}  // namespace gpt2
