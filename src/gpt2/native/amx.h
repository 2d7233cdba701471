// Checked once, before the amx level is offered.

#pragma once

#include "kernels.h"

namespace gpt2 {

bool may_use_amx();   // asks the system for permission; the processor must be known to have AMX
bool multiplies_alike(const Kernels& one, const Kernels& other);

}  // namespace gpt2
