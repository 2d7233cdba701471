// Matrix products by tiles of rows and panels: their order, what they prefetch, and how they finish their sums.
//
//              panels ──>                  A tile of R rows x P panels keeps its sums in registers and walks the inputs once.
//   rows  ┌────────┬────────┬───           Panels in the outer loop, rows in the inner: panels are read from memory once and
//    │    │ tile 1 │ tile 4 │              stay in the L1 and L2 caches while all tiles of rows pass over them. Each of these
//    v    ├────────┼────────┤              tiles prefetches a part of the next panels.
//         │ tile 2 │ tile 5 │
//         ├────────┼────────┤              Few rows take panels that lie far apart, each in its own stream: memory is
//         │ tile 3 │ tile 6 │              fastest with long streams.
//
// A kernel is a struct with its tile's maximum rows and panels, kRows and kPanels, and run<R, P>(), which computes one
// tile: dense_float.h, dense_int8.h and dense_int4.h have them.

#pragma once

namespace gpt2 {
namespace {

// Finishes one panel's results of a row, which may be fewer than 16.
template <Finish F>
GPT2_INLINE void finish_as(const Output& out, int row, int panel, int outputs, const Lanes& result) {
  const int count = outputs - panel * kPanel;
  const int64_t at = row * out.stride + panel * kPanel;
  if constexpr (F == Finish::store) store_first(out.values + at, result, count);
  if constexpr (F == Finish::add) store_first(out.values + at, add(load_first(out.values + at, count, 0.0f), result), count);
  if constexpr (F == Finish::gelu) store_first(out.values + at, gelu(result), count);
#if defined(GPT2_LANES_BF16)
  if constexpr (F == Finish::rounded_gelu) store(out.rounded + at, only_first(gelu(result), count));
#endif
}

template <Finish F>
struct Known { static constexpr Finish finish = F; };

// Calls f with the finish as a constant.
template <class F>
GPT2_INLINE void with_finish(Finish finish, const F& f) {
  switch (finish) {
    case Finish::store: return f(Known<Finish::store>());
    case Finish::add: return f(Known<Finish::add>());
    case Finish::gelu: return f(Known<Finish::gelu>());
    case Finish::rounded_gelu: return f(Known<Finish::rounded_gelu>());
  }
}

void finish(const Output& out, int row, int panel, int outputs, Lanes result) {
  with_finish(out.finish, [&](auto known) { finish_as<decltype(known)::finish>(out, row, panel, outputs, result); });
}

// Finishes one panel's results of several rows; result(r) is that of row `row` + r.
template <class Result>
inline void finish_rows(const MatrixView& m, const Output& out, int row, int rows, int panel, const Result& result) {
  with_finish(out.finish, [&](auto known) {
    for (int r = 0; r < rows; ++r) finish_as<decltype(known)::finish>(out, row + r, panel, m.outputs, result(r));
  });
}

// What a tile prefetches while it multiplies: with line i of each panel's weights, the line from + i * stride bytes
// after the start of the weights; with the data before the weights, the same data `ahead` bytes further.
struct FetchPart {
  int64_t ahead, from, stride;

  // Tiles that pass over the same panels prefetch a part each, so that memory is busy all the time, not only at the first.
  FetchPart(int64_t bytes, int64_t lines, int tile, int tiles)
      : ahead(bytes), from(bytes), stride((kLine + tiles - 1) / tiles) { from += tile * lines * stride; }

  void before(const void* line) const { prefetch(static_cast<const char*>(line) + ahead); }
  void operator()(const void* weights, int64_t line) const { prefetch(static_cast<const char*>(weights) + from + line * stride); }
};

// The same if one tile prefetches everything: the stride is then a compile-time constant, which matters for a single row.
struct FetchAll {
  int64_t ahead;

  void before(const void* line) const { prefetch(static_cast<const char*>(line) + ahead); }
  void operator()(const void* weights, int64_t line) const { prefetch(static_cast<const char*>(weights) + ahead + kLine * line); }
};

// For a processor that prefetches streams by itself: asking as well only slows it down.
struct FetchNothing {
  void before(const void*) const {}
  void operator()(const void*, int64_t) const {}
};

// Prefetches the lines of the panels before the weights.
template <int P, int Lines, class Fetch>
GPT2_INLINE void fetch_beginnings(const MatrixView& m, int panel, int step, const Fetch& fetch) {
  GPT2_UNROLL for (int p = 0; p < P; ++p) GPT2_UNROLL for (int line = 0; line < Lines; ++line) fetch.before(m.panel(panel + p * step) + line * kLine);
}

// Calls Tile with `rows` of 1 .. R as a constant, so that each count has its own unrolled loop.
template <class Tile, int R, int P>
void run_rows(const MatrixView& m, const Activations& x, const Output& out, int rows, int row, int panel, int step, const FetchPart& fetch) {
  if constexpr (R > 1) {
    if (rows < R) return run_rows<Tile, R - 1, P>(m, x, out, rows, row, panel, step, fetch);
  }
  Tile::template run<R, P>(m, x, out, row, panel, step, fetch);
}

// All tiles of P panels. They prefetch the panels `ahead` of these.
template <class Tile, int P>
void walk_rows(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int step, int ahead) {
  const int tiles = (row_end - row + Tile::kRows - 1) / Tile::kRows;
  const int64_t lines = (m.panel_bytes - m.weights_offset) / kLine;
  for (int tile = 0; tile < tiles; ++tile, row += Tile::kRows) {
    const int rows = row_end - row < Tile::kRows ? row_end - row : Tile::kRows;
    run_rows<Tile, Tile::kRows, P>(m, x, out, rows, row, panel, step, FetchPart(ahead * m.panel_bytes, lines, tile, tiles));
  }
}

// A single row streams through memory so fast that it prefetches nearby: in each stream the line 1.5 KB ahead.
constexpr int64_t kNear = 1536;
// A processor that prefetches by itself wants fewer streams, and also with two rows nothing else.
constexpr int kFewPanels = 2;

template <class Tile>
int panels_side_by_side(int rows) {
  if (rows > 1) return Tile::kPanels;
  return prefetches_streams() ? kFewPanels : kWidePanels;
}

// All tiles of panels that lie `step` apart. Several rows prefetch the next panel of each stream.
template <class Tile>
void walk_apart(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int step) {
  const int rows = row_end - row;
  if (rows == 1 && prefetches_streams()) return Tile::template run<1, kFewPanels>(m, x, out, row, panel, step, FetchNothing());
  if (rows == 2 && prefetches_streams()) return Tile::template run<2, Tile::kPanels>(m, x, out, row, panel, step, FetchNothing());
  if (rows == 1) return Tile::template run<1, kWidePanels>(m, x, out, row, panel, step, FetchAll{kNear});
  walk_rows<Tile, Tile::kPanels>(m, x, out, row, row_end, panel, step, 1);
}

// All tiles of a block. Panels in the outer loop, rows in the inner: a panel is read from memory once and stays in cache.
template <class Tile>
void walk_tiles(const MatrixView& m, const Activations& x, const Output& out, int row, int row_end, int panel, int panel_end) {
  for (; panel + Tile::kPanels <= panel_end; panel += Tile::kPanels) walk_rows<Tile, Tile::kPanels>(m, x, out, row, row_end, panel, 1, Tile::kPanels);
  for (; panel < panel_end; ++panel) walk_rows<Tile, 1>(m, x, out, row, row_end, panel, 1, 1);
}

}  // namespace
}  // namespace gpt2
