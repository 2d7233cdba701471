// The amx level: avx512-bf16, and products by tiles. Called only if amx.cpp allows it.

#define GPT2_LANES_BF16
#include "lanes_avx512.h"
#include "level.h"
#if defined(GPT2_TILES_EMULATED)   // a test
#include "tiles_emulated.h"
#else
#include "tiles_amx.h"
#endif
#include "dense_amx.h"
#include "dense_amx_int4.h"
#include "attention_amx.h"
#include "attention_amx_bf16.h"

namespace gpt2 {
namespace {

constexpr int kFewestRowsInt8 = 8, kFewestRowsInt4 = 10;   // with fewer rows, the other levels' code is as fast or faster

// Products of full tiles that are loaded once: the peak of these kernels.
int64_t products_of_tiles(Form form, int64_t rounds) {
  if (form == Form::fp32) return products(form, rounds);
  const TilesInUse tiles(shapes_of(kTileLines, kTileLines, kTileBytes, kTileLines));
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
  return rounds * 4 * kTileLines * kPanel * (form == Form::bf16 ? 32 : 64);
}

void dense_by_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  const int rows = row_end - row;
  if (rows == 0 || panel >= panel_end) return;
  if (m.form == Form::bf16) return walk_products<Bf16Products>(m, x, out, row, row_end, panel, panel_end);
  if (m.form == Form::int8 && rows >= kFewestRowsInt8) return walk_products<Int8Products>(m, x, out, row, row_end, panel, panel_end);
  if (m.form == Form::int4 && rows >= kFewestRowsInt4) return walk_int4(m, x, out, row, row_end, panel, panel_end);
  dense(m, x, out, row, row_end, panel, panel_end);
}

// bf16 uses tiles even for few rows.
int side_by_side_of_tiles(Form form, int rows) { return form == Form::bf16 ? kStreams : side_by_side(form, rows); }

void dense_apart_by_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end, int step) {
  if (row == row_end) return;
  if (m.form == Form::bf16) return walk_products_apart<Bf16Products>(m, x, out, row, row_end, panel, panel_end, step);
  dense_apart(m, x, out, row, row_end, panel, panel_end, step);
}

constexpr Kernels amx_table() {
  Kernels table = kernel_table("amx");
  table.dense = dense_by_tiles;
  table.side_by_side = side_by_side_of_tiles;
  table.dense_apart = dense_apart_by_tiles;
  table.apart_at_once = 4;
  table.products = products_of_tiles;
  table.attend_int8 = attend_int8_by_tiles;
  table.attend_16 = attend_bf16;
  table.store_16 = store_bf16;
  return table;
}

}  // namespace

extern const Kernels amx_kernels;
const Kernels amx_kernels = amx_table();

}  // namespace gpt2
