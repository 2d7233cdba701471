// A weight matrix in the form its kernels read, packed once from floats or from stored codes.

#pragma once

#include "buffer.h"
#include "kernels.h"
#include "pool.h"

namespace gpt2 {

// Where the numbers come from: weight (input k, output o) is at k * input_stride + o * output_stride.
struct Source {
  const float* values;        // either these
  const int8_t* codes;        // or these, with
  const float* scales;        //   weight = code * scales[o], and in int4
  const uint8_t* group_scales;   //         * group_scales[o][k / 32]
  int64_t input_stride, output_stride;
};

struct Piece { void* data; int64_t bytes; };   // of packed weights; past the last: null, -1

class Matrix {
 public:
  Matrix() = default;
  // Codes can only become a matrix of their own form. An arena must outlive the matrix.
  Matrix(Form form, int inputs, int outputs, Arena* arena = nullptr);

  void pack(const Kernels& kernels, Pool& pool, int threads, const Source& source);
  void set_bias(const float* values);

  const MatrixView& view() const { return view_; }
  // The weights of one output as the kernels mean them, [inputs]: what an embedding looks up.
  void read_output(int output, float* weights) const;
  Piece piece() { return {data_.data(), static_cast<int64_t>(data_.bytes())}; }

 private:
  void pack_floats(const Kernels& kernels, const Source& source, int panel, int panel_end, float* scratch);
  void pack_int8_codes(const Source& source, int panel);
  void pack_int4_codes(const Source& source, int panel);

  // The parts of a panel, to be written.
  float* bias(int panel) { return const_cast<float*>(view_.bias(panel)); }
  float* row_scales(int panel) { return const_cast<float*>(view_.row_scales(panel)); }
  uint8_t* group_scales(int panel) { return const_cast<uint8_t*>(view_.group_scales(panel)); }
  unsigned char* weights(int panel) { return const_cast<unsigned char*>(view_.weights(panel)); }

  MatrixView view_{};
  Buffer<unsigned char> data_;
};

}  // namespace gpt2
