// Packing runs over strips of four panels: 64 neighbouring columns are 256 bytes of each row of the source.

#include "matrix.h"

#include <algorithm>
#include <stdexcept>

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

int64_t bytes_of_weights(Form form, int padded_inputs) {   // per panel
  const int64_t weights = int64_t{padded_inputs} * kPanel;
  switch (form) {
    case Form::fp32: return weights * 4;
    case Form::bf16: return weights * 2;
    case Form::int8: return weights;
    case Form::int4: return weights / 2 + round_up(int64_t{padded_inputs} / kGroup * kPanel, kLine);   // with group scales
  }
  return 0;
}

// The bytes before the weights: bias and row scales.
int bytes_before_weights(Form form) { return form == Form::int8 || form == Form::int4 ? 2 * kLine : kLine; }

bool is_complete(Form form, const gpt2_source& source) {
  if (!source.codes) return source.values;
  return source.scales && (form == Form::int4 ? source.group_scales != nullptr : form == Form::int8 && !source.group_scales);
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
  view_.weights_offset = bytes_before_weights(form);
  view_.panel_bytes = round_up(view_.weights_offset + bytes_of_weights(form, view_.padded_inputs), kLine);
  data_ = Buffer<unsigned char>(static_cast<size_t>(view_.panels * view_.panel_bytes), arena);
  view_.data = data_.data();
}

void Matrix::set_bias(const float* values) {
  for (int o = 0; o < view_.outputs; ++o) bias(o / kPanel)[o % kPanel] = values[o];
}

void Matrix::pack(const Kernels& kernels, Pool& pool, int threads, const gpt2_source& source) {
  if (!is_complete(view_.form, source)) throw std::invalid_argument("neither floats nor codes of this form");
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

void Matrix::pack_floats(const Kernels& kernels, const gpt2_source& source, int panel, int panel_end, float* scratch) {
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
  for (int p = panel; p < panel_end; ++p) {
    kernels.pack_panel(view_.form, scratch + static_cast<size_t>(p - panel) * panel_size, view_.inputs, view_.padded_inputs, weights(p), row_scales(p));
  }
}

void Matrix::pack_int8_codes(const gpt2_source& source, int panel) {
  int8_t* to = reinterpret_cast<int8_t*>(weights(panel));
  const int first = panel * kPanel, count = std::min(kPanel, view_.outputs - first);
  std::copy(source.scales + first, source.scales + first + count, row_scales(panel));
  for (int k = 0; k < view_.inputs; ++k) {
    const int8_t* from = source.codes + k * source.input_stride + first * source.output_stride;
    int8_t* quad = to + (k / 4) * 4 * kPanel + k % 4;
    for (int o = 0; o < count; ++o) quad[4 * o] = from[o * source.output_stride];
  }
}

void Matrix::pack_int4_codes(const gpt2_source& source, int panel) {
  uint8_t* to = weights(panel);
  const int first = panel * kPanel, count = std::min(kPanel, view_.outputs - first), groups = view_.padded_inputs / kGroup;
  std::fill(to, to + bytes_of_weights(Form::int4, view_.padded_inputs), uint8_t{0x88});   // code 0 twice, for the padding
  std::copy(source.scales + first, source.scales + first + count, row_scales(panel));
  for (int o = 0; o < count; ++o) {
    for (int g = 0; g < groups; ++g) to[MatrixView::scales_at(g) + o] = source.group_scales[static_cast<int64_t>(first + o) * groups + g];
    const int8_t* from = source.codes + (first + o) * source.output_stride;
    for (int k = 0; k < view_.inputs; ++k) {
      uint8_t& both = to[MatrixView::codes_at(k / kGroup) + k % kGroup / 8 * kLine + 4 * o + k % 4];
      const int code = from[k * source.input_stride] + 8;
      both = static_cast<uint8_t>(k % 8 < 4 ? (both & 0xf0) | code : (both & 0x0f) | code << 4);
    }
  }
}

void Matrix::read_output(int output, float* weights) const {
  const int panel = output / kPanel, lane = output % kPanel;
  const unsigned char* data = view_.weights(panel);
  for (int k = 0; k < view_.inputs; ++k) {
    switch (view_.form) {
      case Form::fp32: weights[k] = reinterpret_cast<const float*>(data)[k * kPanel + lane]; break;
      case Form::bf16: weights[k] = widen(reinterpret_cast<const Bf16*>(data)[k / 2 * 2 * kPanel + 2 * lane + k % 2]); break;
      case Form::int8: {
        const int code = reinterpret_cast<const int8_t*>(data)[k / 4 * 4 * kPanel + 4 * lane + k % 4];
        weights[k] = static_cast<float>(code) * view_.row_scales(panel)[lane];
        break;
      }
      case Form::int4: {
        const int byte = data[MatrixView::codes_at(k / kGroup) + k % kGroup / 8 * kLine + 4 * lane + k % 4];
        const int code = (k % 8 < 4 ? byte & 15 : byte >> 4) - 8;
        const int scale = data[MatrixView::scales_at(k / kGroup) + lane];
        weights[k] = static_cast<float>(code * scale) * view_.row_scales(panel)[lane];
        break;
      }
    }
  }
}

}  // namespace gpt2
