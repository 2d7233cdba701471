#include "activity.h"

namespace gpt2 {
namespace {

bool is_whole(Form form) { return form == Form::int8 || form == Form::int4; }

}  // namespace

bool Quantised::is_needed(const Kernels& kernels, Form form) {
  return is_whole(form) || (form == Form::bf16 && kernels.round_row);
}

Quantised::Quantised(const Kernels& kernels, Form form, int rows, int width, Arena* arena) {
  if (!is_needed(kernels, form)) return;
  const size_t N = static_cast<size_t>(rows);
  if (is_whole(form)) {
    code_stride = row_bytes(width);
    group_stride = code_stride / kGroup;
    codes = Buffer<int8_t>(N * static_cast<size_t>(code_stride), arena);
    scales = Buffer<float>(N, arena);
    code_sums = Buffer<int32_t>(N, arena);
    group_offsets = Buffer<int32_t>(N * static_cast<size_t>(group_stride), arena);
  } else {
    rounded_stride = row_bytes(width * int64_t{sizeof(Bf16)}) / int64_t{sizeof(Bf16)};
    rounded = Buffer<Bf16>(N * static_cast<size_t>(rounded_stride), arena);
  }
}

void Quantised::put(const Kernels& kernels, Form form, const float* x, int width, int row) {
  if (!is_whole(form)) return kernels.round_row(x, width, static_cast<int>(round_up(width, 2)), rounded.data() + row * rounded_stride);
  kernels.quantise_row(x, width, static_cast<int>(round_up(width, kGroup)), codes.data() + row * code_stride, scales.data() + row,
                       code_sums.data() + row, form == Form::int4 ? group_offsets.data() + row * group_stride : nullptr);
}

Activations Quantised::of(const float* values, int64_t stride) const {
  return {values, stride, rounded.data(), rounded_stride, codes.data(), code_stride, scales.data(), code_sums.data(), group_offsets.data(), group_stride};
}

}  // namespace gpt2
