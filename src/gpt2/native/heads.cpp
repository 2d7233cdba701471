#include "heads.h"

#include <algorithm>
#include <cmath>

namespace gpt2 {

Heads::Heads(const Kernels& kernels, Form form, int n_head, int head_width)
    : narrow_(form != Form::fp32), n_head_(n_head), head_width_(head_width) {
  const bool whole = form == Form::int8 || form == Form::int4;
  attend_ = !narrow_ ? kernels.attend_fp32 : whole ? kernels.attend_int8 : kernels.attend_16;
  store_ = !narrow_ ? kernels.store_fp32 : whole ? kernels.store_int8 : kernels.store_16;
  const size_t element = !narrow_ ? sizeof(float) : whole ? sizeof(int8_t) : sizeof(Half);
  const size_t scale = whole ? sizeof(float) : 0;   // per position
  const int64_t key_width = round_up(head_width, static_cast<int64_t>(sizeof(float) / element));   // in whole words of 4 bytes
  keys_bytes_ = kPage * (element * static_cast<size_t>(key_width) + scale);
  values_bytes_ = kPage * (element * static_cast<size_t>(padded_width(head_width)) + scale);
}

Heads::Scratch Heads::scratch(int n_positions) const {
  Scratch made;
  const int64_t keys = round_up(n_positions, kPage);
  made.scores_stride = row_bytes(keys * int64_t{sizeof(float)}) / int64_t{sizeof(float)};
  made.scores = Buffer<float>(static_cast<size_t>(kMaxAttendRows * made.scores_stride));
  if (narrow_) made.code_stride = std::max(2 * row_bytes(keys), row_bytes(2 * padded_width(head_width_)));
  made.codes = Buffer<int8_t>(static_cast<size_t>(kMaxAttendRows * made.code_stride));
  return made;
}

void Heads::attend(const Rows& rows, unsigned char* const* pages, int layer, int head, Scratch& scratch, float* sums) const {
  Attend a{};
  a.rows = rows.rows;
  a.first_position = rows.first_position;
  a.head_width = head_width_;
  a.scale = 1.0f / std::sqrt(static_cast<float>(head_width_));
  a.q = rows.q;
  a.q_stride = rows.q_stride;
  a.pages = pages;
  a.k_offset = keys(layer, head);
  a.v_offset = values(layer, head);
  a.scores = scratch.scores.data();
  a.scores_stride = scratch.scores_stride;
  a.sums = sums;
  a.out = rows.out;
  a.out_stride = rows.out_stride;
  a.codes = scratch.codes.data();
  a.code_stride = scratch.code_stride;
  attend_(a);
}

}  // namespace gpt2
