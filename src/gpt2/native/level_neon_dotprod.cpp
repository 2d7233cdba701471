// The neon-dotprod level: NEON with its dot product, called only if the processor reports it.

#include "lanes_neon.h"
#include "level.h"

namespace gpt2 {

extern const Kernels neon_dotprod_kernels;
const Kernels neon_dotprod_kernels = kernel_table("neon-dotprod");

}  // namespace gpt2
