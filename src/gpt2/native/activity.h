// Activations between the matrices: rows of floats, and the same rows in the form that a matrix reads.

#pragma once

#include "buffer.h"
#include "kernels.h"

namespace gpt2 {

// Rows of numbers, each as wide as the buffer's stride.
struct Activity {
  Buffer<float> values;
  int64_t stride = 0;

  Activity() = default;
  Activity(int rows, int width, Arena* arena = nullptr) : stride(row_bytes(width * int64_t{sizeof(float)}) / int64_t{sizeof(float)}) {
    values = Buffer<float>(static_cast<size_t>(rows * stride), arena);
  }
  float* row(int i) { return values.data() + i * stride; }
  Output output(Finish finish) { return {values.data(), stride, finish}; }
};

// The same rows as int8 codes for the integer forms, or in bfloat16.
struct Quantised {
  Buffer<int8_t> codes;
  Buffer<float> scales;
  Buffer<int32_t> code_sums, group_offsets;
  Buffer<Bf16> rounded;
  int64_t code_stride = 0, group_stride = 0, rounded_stride = 0;

  Quantised() = default;
  Quantised(const Kernels& kernels, Form form, int rows, int width, Arena* arena = nullptr);

  // Whether rows must go through `put` before a matrix of this form reads them.
  static bool is_needed(const Kernels& kernels, Form form);
  void put(const Kernels& kernels, Form form, const float* x, int width, int row);
  // Rows that a matrix writes here in bfloat16, ready for the next one.
  Output output(Finish finish) { return {nullptr, rounded_stride, finish, rounded.data()}; }
  Activations of(const float* values, int64_t stride) const;
};

// Rows as a matrix reads them: after the layer norm if there is one, and quantised or rounded.
struct Prepared {
  Activity normed;
  Quantised quantised;
};

}  // namespace gpt2
