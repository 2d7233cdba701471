// The amx level: avx512-bf16, and products by tiles. Called only where amx.cpp has found that this process may.

#define GPT2_LANES_BF16
#include "lanes_avx512.h"
#include "level.h"
#if defined(GPT2_TILES_EMULATED)   // a test
#include "tiles_emulated.h"
#else
#include "tiles_amx.h"
#endif
#include "dense_amx.h"
#include "attention_amx.h"

namespace gpt2 {
namespace {

constexpr Kernels amx_table() {
  Kernels table = kernel_table("amx");
  table.dense = dense_by_tiles;
  table.side_by_side = side_by_side_without_tiles;
  table.products = products_of_tiles;
  table.attend_int8 = attend_int8_by_tiles;
  return table;
}

}  // namespace

extern const Kernels amx_kernels;
const Kernels amx_kernels = amx_table();

}  // namespace gpt2
