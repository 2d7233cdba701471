// Asked once, before the amx level is offered.

#pragma once

#include "kernels.h"

namespace gpt2 {

bool may_use_amx();   // asks the system; the processor must be known to have it
bool multiplies_alike(const Kernels& one, const Kernels& other);

}  // namespace gpt2
