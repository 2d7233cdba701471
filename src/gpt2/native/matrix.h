// A weight matrix in the form its kernels read, packed once from floats or from stored codes.

#pragma once

#include "buffer.h"
#include "gpt2_native.h"
#include "kernels.h"
#include "pool.h"

namespace gpt2 {

struct Piece { void* data; int64_t bytes; };   // of packed weights; past the last piece: null, -1

class Matrix {
 public:
  Matrix() = default;
  // An arena must outlive the matrix.
  Matrix(Form form, int inputs, int outputs, Arena* arena = nullptr);

  // Throws std::invalid_argument for codes of another form.
  void pack(const Kernels& kernels, Pool& pool, int threads, const gpt2_source& source);
  void set_bias(const float* values);

  const MatrixView& view() const { return view_; }
  // The weights of one output as floats, [inputs]: an embedding lookup.
  void read_output(int output, float* weights) const;
  Piece piece() { return {data_.data(), static_cast<int64_t>(data_.bytes())}; }

 private:
  void pack_floats(const Kernels& kernels, const gpt2_source& source, int panel, int panel_end, float* scratch);
  void pack_int8_codes(const gpt2_source& source, int panel);
  void pack_int4_codes(const gpt2_source& source, int panel);

  // Writable parts of a panel.
  float* bias(int panel) { return const_cast<float*>(view_.bias(panel)); }
  float* row_scales(int panel) { return const_cast<float*>(view_.row_scales(panel)); }
  unsigned char* weights(int panel) { return const_cast<unsigned char*>(view_.weights(panel)); }

  MatrixView view_{};
  Buffer<unsigned char> data_;
};

}  // namespace gpt2
