// Assembles the kernel families for one level. A level's file includes its lanes_*.h, then this, and returns
// `kernel_table`. Everything is in an unnamed namespace, so each level has its own copy of each kernel.

#pragma once

#include "pointwise.h"
#include "dense.h"
#include "dense_float.h"
#include "dense_int8.h"
#include "dense_int4.h"
#include "dense_int4_many.h"
#include "attention.h"
#include "attention_int8.h"
#include "packing.h"
#include "draw.h"
#include "products.h"

namespace gpt2 {
namespace {

template <class F>
auto with_tile(Form form, const F& f) {
  switch (form) {
    case Form::fp32: return f(Fp32Tile());
    case Form::bf16: return f(Bf16Tile());
    case Form::int8: return f(Int8Tile());
    default: return f(Int4Tile());
  }
}

void dense(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  if constexpr (kFewestRowsMany > 0) {
    if (m.form == Form::int4 && row_end - row >= kFewestRowsMany) return walk_many_int4(m, x, out, row, row_end, panel, panel_end);
  }
  with_tile(m.form, [&](auto tile) { walk_tiles<decltype(tile)>(m, x, out, row, row_end, panel, panel_end); });
}

int side_by_side(Form form, int rows) {
  return with_tile(form, [=](auto tile) { return panels_side_by_side<decltype(tile)>(rows); });
}

void dense_apart(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end, int step) {
  with_tile(m.form, [&](auto tile) {
    for (; panel < panel_end; ++panel) walk_apart<decltype(tile)>(m, x, out, row, row_end, panel, step);
  });
}

constexpr Kernels kernel_table(const char* name) {
  return {name,
          dense,
          side_by_side,
          dense_apart,
          1,
          layer_norm,
          quantise_row,
          kRoundRow,
          attend<float>,
          attend<Half>,
          attend_int8,
          store_positions<float>,
          store_positions<Half>,
          store_positions_int8,
          is_finite,
          row_statistics,
          draw,
          pack_panel,
          products};
}

}  // namespace
}  // namespace gpt2
