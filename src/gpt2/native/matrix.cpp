// Packing runs over strips of four panels: 64 neighbouring columns are 256 bytes of each row of the source.

#include "matrix.h"

#include <algorithm>

namespace gpt2 {
namespace {

constexpr int kStrip = 4;   // panels

int inputs_at_once(Form form) {
  switch (form) {
    case Form::bf16: return 2;
    case Form::int8: return 4;
    case Form::int4: return kGroup;
    default: return 1;
  }
}

size_t bytes_of_panel(Form form, int padded_inputs) {
  const size_t weights = static_cast<size_t>(padded_inputs) * kPanel;
  switch (form) {
    case Form::fp32: return weights * 4;
    case Form::bf16: return weights * 2;
    case Form::int8: return weights;
    case Form::int4: return weights / 2;
  }
  return 0;
}

float widen(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

}  // namespace

Matrix::Matrix(Form form, int inputs, int outputs, Arena* arena) {
  view_.form = form;
  view_.inputs = inputs;
  view_.outputs = outputs;
  view_.padded_inputs = static_cast<int>(round_up(inputs, inputs_at_once(form)));
  view_.panels = static_cast<int>(round_up(outputs, kPanel) / kPanel);
  panel_bytes_ = bytes_of_panel(form, view_.padded_inputs);
  const size_t panels = static_cast<size_t>(view_.panels);
  weights_ = Buffer<unsigned char>(panels * panel_bytes_, arena);
  if (form == Form::int4) group_scales_ = Buffer<uint8_t>(panels * static_cast<size_t>(view_.padded_inputs / kGroup) * kPanel, arena);
  if (form == Form::int8 || form == Form::int4) row_scales_ = Buffer<float>(panels * kPanel, arena);
  bias_ = Buffer<float>(panels * kPanel, arena);
  view_.weights = weights_.data();
  view_.group_scales = group_scales_.data();
  view_.row_scales = row_scales_.data();
  view_.bias = bias_.data();
}

void* Matrix::panel_weights(int panel) { return weights_.data() + static_cast<size_t>(panel) * panel_bytes_; }

Piece Matrix::piece(int index) {
  const auto of = [](auto& buffer) { return Piece{buffer.data(), static_cast<int64_t>(buffer.bytes())}; };
  switch (index) {
    case 0: return of(weights_);
    case 1: return of(group_scales_);
    case 2: return of(row_scales_);
    default: return of(bias_);
  }
}

void Matrix::set_bias(const float* bias) { std::copy(bias, bias + view_.outputs, bias_.data()); }

void Matrix::pack(const Kernels& kernels, Pool& pool, int threads, const Source& source) {
  const size_t scratch_size = static_cast<size_t>(view_.padded_inputs) * kPanel * kStrip;
  Buffer<float> scratch(source.codes ? 0 : scratch_size * static_cast<size_t>(threads));
  pool.run(threads, [&](Team& team, int member) {
    team.for_each(member, view_.panels, kStrip, [&](int panel, int panel_end) {
      if (source.codes) {
        for (; panel < panel_end; ++panel) source.group_scales ? pack_int4_codes(source, panel) : pack_int8_codes(source, panel);
      } else {
        pack_floats(kernels, source, panel, panel_end, scratch.data() + scratch_size * static_cast<size_t>(member));
      }
    });
  });
}

void Matrix::pack_floats(const Kernels& kernels, const Source& source, int panel, int panel_end, float* scratch) {
  const int first = panel * kPanel, last = std::min(panel_end * kPanel, view_.outputs);
  const size_t panel_size = static_cast<size_t>(view_.padded_inputs) * kPanel;
  std::fill(scratch, scratch + panel_size * kStrip, 0.0f);
  const auto copy = [&](int k, int o) {
    const size_t to = static_cast<size_t>((o - first) / kPanel) * panel_size + static_cast<size_t>(k) * kPanel;
    scratch[to + static_cast<size_t>((o - first) % kPanel)] = source.values[k * source.input_stride + o * source.output_stride];
  };
  if (source.output_stride == 1) {
    for (int k = 0; k < view_.inputs; ++k) for (int o = first; o < last; ++o) copy(k, o);
  } else {
    for (int o = first; o < last; ++o) for (int k = 0; k < view_.inputs; ++k) copy(k, o);
  }
  const size_t groups = static_cast<size_t>(view_.padded_inputs / kGroup);
  for (int p = panel; p < panel_end; ++p) {
    const size_t at = static_cast<size_t>(p) * kPanel;
    kernels.pack_panel(view_.form, scratch + static_cast<size_t>(p - panel) * panel_size, view_.inputs, view_.padded_inputs,
                       panel_weights(p), group_scales_.data() ? group_scales_.data() + at * groups : nullptr,
                       row_scales_.data() ? row_scales_.data() + at : nullptr);
  }
}

void Matrix::pack_int8_codes(const Source& source, int panel) {
  int8_t* to = static_cast<int8_t*>(panel_weights(panel));
  const int first = panel * kPanel, count = std::min(kPanel, view_.outputs - first);
  for (int o = 0; o < count; ++o) row_scales_[static_cast<size_t>(first + o)] = source.scales[first + o];
  for (int k = 0; k < view_.inputs; ++k) {
    const int8_t* from = source.codes + k * source.input_stride + first * source.output_stride;
    int8_t* quad = to + (k / 4) * 4 * kPanel + k % 4;
    for (int o = 0; o < count; ++o) quad[4 * o] = from[o * source.output_stride];
  }
}

void Matrix::pack_int4_codes(const Source& source, int panel) {
  uint8_t* to = static_cast<uint8_t*>(panel_weights(panel));
  const int first = panel * kPanel, count = std::min(kPanel, view_.outputs - first), groups = view_.padded_inputs / kGroup;
  std::fill(to, to + panel_bytes_, uint8_t{0x88});   // code 0 twice: what lies beyond the matrix
  for (int o = 0; o < count; ++o) {
    row_scales_[static_cast<size_t>(first + o)] = source.scales[first + o];
    for (int g = 0; g < groups; ++g) {
      group_scales_[(static_cast<size_t>(panel) * static_cast<size_t>(groups) + static_cast<size_t>(g)) * kPanel + static_cast<size_t>(o)] =
          source.group_scales[static_cast<int64_t>(first + o) * groups + g];
    }
    const int8_t* from = source.codes + (first + o) * source.output_stride;
    for (int k = 0; k < view_.inputs; ++k) {
      uint8_t& both = to[k / 8 * 4 * kPanel + 4 * o + k % 4];
      const int code = from[k * source.input_stride] + 8;
      both = static_cast<uint8_t>(k % 8 < 4 ? (both & 0xf0) | code : (both & 0x0f) | code << 4);
    }
  }
}

void Matrix::read_output(int output, float* weights) const {
  const int lane = output % kPanel;
  const size_t panel = static_cast<size_t>(output / kPanel);
  const unsigned char* data = weights_.data() + panel * panel_bytes_;
  for (int k = 0; k < view_.inputs; ++k) {
    switch (view_.form) {
      case Form::fp32: weights[k] = reinterpret_cast<const float*>(data)[k * kPanel + lane]; break;
      case Form::bf16: weights[k] = widen(reinterpret_cast<const Bf16*>(data)[k / 2 * 2 * kPanel + 2 * lane + k % 2]); break;
      case Form::int8: {
        const int code = reinterpret_cast<const int8_t*>(data)[k / 4 * 4 * kPanel + 4 * lane + k % 4];
        weights[k] = static_cast<float>(code) * row_scales_[static_cast<size_t>(output)];
        break;
      }
      case Form::int4: {
        const int byte = data[k / 8 * 4 * kPanel + 4 * lane + k % 4];
        const int code = (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
        const size_t group = panel * static_cast<size_t>(view_.padded_inputs / kGroup) + static_cast<size_t>(k / kGroup);
        const int scale = group_scales_[group * kPanel + static_cast<size_t>(lane)];
        weights[k] = static_cast<float>(code * scale) * row_scales_[static_cast<size_t>(output)];
        break;
      }
    }
  }
}

}  // namespace gpt2
