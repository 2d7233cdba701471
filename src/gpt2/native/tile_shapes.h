// Lines and bytes of each tile: the 64-byte configuration that the processor reads (Intel SDM volume 1, 18.2).

#pragma once

#include <cstdint>

namespace gpt2 {

struct alignas(64) TileShapes {
  uint8_t palette = 1, start_line = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t lines[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

}  // namespace gpt2
