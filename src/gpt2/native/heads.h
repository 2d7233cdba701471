// Heads: where each head's keys and values lie in a page, and attention in their stored form.

#pragma once

#include <cstddef>

#include "buffer.h"
#include "kernels.h"

namespace gpt2 {

// A page holds all layers and heads of 64 positions:
//   layer 0: head 0: keys, values | head 1: keys, values | ... | layer 1: ...      (attention*.h draw them)
// Keys and values are fp32 for fp32 weights, fp16 for bf16 (bf16 with tiles), int8 for int8 and int4.
class Heads {
 public:
  // One thread's working memory for attention.
  struct Scratch {
    Buffer<float> scores;    // [kMaxAttendRows][scores_stride]
    Buffer<int8_t> codes;    // [kMaxAttendRows][code_stride]; none for fp32
    int64_t scores_stride = 0, code_stride = 0;
  };
  // Rows at neighbouring positions of one sequence.
  struct Rows {
    int rows, first_position;
    const float* q;          // [rows][q_stride]
    int64_t q_stride;
    float* out;              // [rows][out_stride]
    int64_t out_stride;
  };

  Heads() = default;
  Heads(const Kernels& kernels, Form form, int n_head, int head_width);

  size_t page_bytes(int n_layer) const { return keys(n_layer, 0); }
  Scratch scratch(int n_positions) const;

  // Writes keys and values of a head, [rows][stride], into a page from position `key` on; false if a number is not
  // finite.
  bool store(unsigned char* page, int layer, int head, const float* k, const float* v, int64_t stride, int rows, int key) const {
    return store_(k, v, stride, rows, head_width_, key, page + keys(layer, head), page + values(layer, head));
  }
  // Up to kMaxAttendRows rows. Afterwards the scratch's scores divided by sums[row] are each row's attention weights.
  void attend(const Rows& rows, unsigned char* const* pages, int layer, int head, Scratch& scratch, float* sums) const;

 private:
  size_t keys(int layer, int head) const { return (static_cast<size_t>(layer) * n_head_ + static_cast<size_t>(head)) * (keys_bytes_ + values_bytes_); }
  size_t values(int layer, int head) const { return keys(layer, head) + keys_bytes_; }

  void (*attend_)(const Attend&) = nullptr;
  decltype(Kernels::store_fp32) store_ = nullptr;
  bool narrow_ = false;      // not fp32
  int n_head_ = 0, head_width_ = 0;
  size_t keys_bytes_ = 0, values_bytes_ = 0;   // of one layer and head
};

}  // namespace gpt2
