// The C interface: checks arguments, and turns exceptions into codes and messages.

#include "gpt2_native.h"

#include <algorithm>
#include <exception>
#include <new>
#include <string>

#include "engine.h"
#include "limits.h"

#ifndef GPT2_SOURCES
#define GPT2_SOURCES ""
#endif

struct gpt2_engine { gpt2::Engine engine; };

struct gpt2_matrix {
  gpt2::Matrix matrix;
  const gpt2::Kernels* kernels;
};

namespace {

using namespace gpt2;

thread_local std::string last_error;

// Returns f's result; if f throws, keeps the message and returns the error code.
template <class F>
int32_t guarded(const F& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    last_error = "not enough memory";
    return GPT2_NO_MEMORY;
  } catch (const std::exception& error) {
    last_error = error.what();
    return GPT2_FAILED;
  }
}

int32_t fail(const std::string& message) {
  last_error = message;
  return GPT2_FAILED;
}

const Kernels* level_called(const char* name) {
  const Kernels* kernels = find_level(name);
  if (!kernels) last_error = std::string("no level called ") + name;
  return kernels;
}

bool is_form(int32_t form) { return form >= GPT2_FP32 && form <= GPT2_INT4; }

// The most inputs whose sums of int8 products stay within 32 bits: 2^31 / (127 * 128), and in int4 2^31 / (8 * 127 * 127).
bool fits_whole_sums(int32_t form, int32_t inputs) {
  if (form == GPT2_INT8) return inputs <= 131072;
  if (form == GPT2_INT4) return inputs <= 16384;
  return true;
}

// Attention in the integer forms sums weights up to 127 times codes up to 127 over the positions.
bool fits_positions(int32_t form, int32_t positions) { return (form != GPT2_INT8 && form != GPT2_INT4) || positions <= 131072; }

// Three times this size, rounded up, still fits an int.
bool is_size(int32_t count) { return count >= 1 && count <= 1 << 28; }

bool is_shape(const gpt2_shape& s) {
  const auto sizes = {s.n_layer, s.n_head, s.n_embd, s.n_positions, s.vocab_size, s.n_inner};
  return std::all_of(sizes.begin(), sizes.end(), is_size) && s.n_embd % s.n_head == 0;
}

bool is_threads(int32_t threads) { return threads >= 1 && threads <= 1024; }

bool is_slot(const gpt2_engine* engine, int32_t slot) {
  if (engine->engine.slots().exists(slot)) return true;
  last_error = "no slot " + std::to_string(slot);
  return false;
}

}  // namespace

int32_t gpt2_abi(void) { return GPT2_ABI; }

const char* gpt2_sources(void) { return GPT2_SOURCES; }

const char* gpt2_last_error(void) { return last_error.c_str(); }

const char* gpt2_levels(void) {
  static const std::string names = [] {
    std::string all;
    for (const Kernels* const* level = levels(); *level; ++level) all += (all.empty() ? "" : ",") + std::string((*level)->name);
    return all;
  }();
  last_error = levels_warning();
  return names.c_str();
}

gpt2_engine* gpt2_engine_new(const gpt2_shape* shape, int32_t form, const char* level, int32_t threads) {
  gpt2_engine* made = nullptr;
  guarded([&] {
    const Kernels* kernels = level_called(level);
    if (!kernels) return int32_t{GPT2_FAILED};
    const bool int4_whole = form == GPT2_INT4_WHOLE;
    if (int4_whole) form = GPT2_INT4;
    if (!is_form(form) || !is_threads(threads)) return fail("no such form or number of threads");
    if (!is_shape(*shape)) return fail("no GPT-2 has such a shape");
    if (!fits_whole_sums(form, std::max(shape->n_embd, shape->n_inner))) return fail("too wide for sums of this form in 32 bits");
    if (!fits_positions(form, shape->n_positions)) return fail("more positions than sums of this form hold in 32 bits");
    made = new gpt2_engine{Engine(*shape, static_cast<Form>(form), form == GPT2_INT4 && !int4_whole ? Form::int8 : static_cast<Form>(form), *kernels, threads)};
    return int32_t{0};
  });
  return made;
}

int32_t gpt2_engine_load(gpt2_engine* engine, const char* name, const gpt2_source* source) {
  return guarded([&] { engine->engine.load(name, *source); return int32_t{0}; });
}

int64_t gpt2_engine_piece(gpt2_engine* engine, int32_t index, void** data) {
  const Piece piece = engine->engine.piece(index);
  *data = piece.data;
  return piece.bytes;
}

uint64_t gpt2_engine_checksum(gpt2_engine* engine) { return engine->engine.checksum(); }

void gpt2_engine_free(gpt2_engine* engine) { delete engine; }

int32_t gpt2_slot_new(gpt2_engine* engine) {
  return guarded([&] { return static_cast<int32_t>(engine->engine.slots().add()); });
}

int32_t gpt2_slot_truncate(gpt2_engine* engine, int32_t slot, int32_t length) {
  if (!is_slot(engine, slot)) return GPT2_FAILED;
  if (length < 0 || length > engine->engine.slots().length(slot)) return fail("a slot can only be cut shorter");
  return guarded([&] { engine->engine.slots().truncate(slot, length); return int32_t{0}; });
}

int32_t gpt2_slot_fork(gpt2_engine* engine, int32_t slot) {
  if (!is_slot(engine, slot)) return GPT2_FAILED;
  return guarded([&] { return static_cast<int32_t>(engine->engine.slots().fork(slot)); });
}

int32_t gpt2_slot_free(gpt2_engine* engine, int32_t slot) {
  if (!is_slot(engine, slot)) return GPT2_FAILED;
  return guarded([&] { engine->engine.slots().free(slot); return int32_t{0}; });
}

int64_t gpt2_slots_bytes(const gpt2_engine* engine) { return engine->engine.slots().bytes(); }

int32_t gpt2_step(gpt2_engine* engine, const gpt2_work* work, int32_t count) {
  if (count < 0) return fail("fewer than no pieces of work");
  for (int32_t i = 0; i < count; ++i) if (!is_slot(engine, work[i].slot)) return GPT2_FAILED;
  return guarded([&] {
    if (const char* refused = engine->engine.refusal(work, count)) return fail(refused);
    return engine->engine.step(work, count) ? int32_t{0} : int32_t{GPT2_NOT_FINITE};
  });
}

double gpt2_product_rate(const char* level, int32_t form, int32_t threads) {
  const Kernels* kernels = level_called(level);
  if (!kernels || !is_form(form) || !is_threads(threads)) return 0;
  double rate = 0;
  guarded([&] { rate = product_rate(*kernels, static_cast<Form>(form), threads); return 0; });
  return rate;
}

double gpt2_read_rate(int64_t bytes, int32_t threads) {
  double rate = 0;
  if (bytes > 0 && is_threads(threads)) guarded([&] { rate = read_rate(threads, bytes); return 0; });
  return rate;
}

gpt2_matrix* gpt2_matrix_new(const char* level, int32_t form, int32_t inputs, int32_t outputs, const gpt2_source* source, const float* bias) {
  gpt2_matrix* made = nullptr;
  guarded([&] {
    const Kernels* kernels = level_called(level);
    if (!kernels) return int32_t{GPT2_FAILED};
    if (!is_form(form) || !fits_whole_sums(form, inputs)) return fail("no such form, or too wide for it");
    if (!is_size(inputs) || !is_size(outputs)) return fail("no matrix has such a shape");
    Matrix matrix(static_cast<Form>(form), inputs, outputs);
    matrix.pack(*kernels, *Pool::shared(), 1, *source);
    if (bias) matrix.set_bias(bias);
    made = new gpt2_matrix{std::move(matrix), kernels};
    return int32_t{0};
  });
  return made;
}

void gpt2_matrix_read(const gpt2_matrix* matrix, int32_t output, float* weights) { matrix->matrix.read_output(output, weights); }

int32_t gpt2_matrix_apply(const gpt2_matrix* matrix, const float* x, int32_t rows, float* y) {
  return guarded([&] {
    if (rows < 0) return fail("fewer than no rows");
    const MatrixView& m = matrix->matrix.view();
    const Kernels& kernels = *matrix->kernels;
    Quantised q(kernels, m.form, rows, m.inputs);
    if (Quantised::is_needed(kernels, m.form)) {
      for (int32_t r = 0; r < rows; ++r) q.put(kernels, m.form, x + static_cast<int64_t>(r) * m.inputs, m.inputs, r);
    }
    kernels.dense(m, q.of(x, m.inputs), {y, m.outputs, Finish::store}, 0, rows, 0, m.panels);
    return int32_t{0};
  });
}

void gpt2_matrix_free(gpt2_matrix* matrix) { delete matrix; }

int32_t gpt2_attend(const char* level, int32_t form, int32_t head_width, int32_t positions, int32_t rows, const float* q, const float* k, const float* v, float* out) {
  return guarded([&] {
    const Kernels* kernels = level_called(level);
    if (!kernels) return int32_t{GPT2_FAILED};
    if (!is_form(form) || !is_size(head_width) || !is_size(positions) || rows < 1 || rows > positions) return fail("no such form, or more rows than positions");
    if (!fits_positions(form, positions)) return fail("more positions than sums of this form hold in 32 bits");
    const Heads heads(*kernels, static_cast<Form>(form), 1, head_width);
    Slots slots(heads.page_bytes(1), positions);
    slots.reserve(slots.add(), positions);
    for (int first = 0; first < positions; first += kPage) {
      const int64_t at = static_cast<int64_t>(first) * head_width;
      const bool finite = heads.store(slots.pages(0)[first / kPage], 0, 0, k + at, v + at, head_width, std::min(kPage, positions - first), 0);
      if (!finite) return fail("a key or value is not a finite number");
    }
    Heads::Scratch scratch = heads.scratch(positions);
    for (int row = 0; row < rows; row += kMaxAttendRows) {
      const int64_t at = static_cast<int64_t>(row) * head_width;
      float sums[kMaxAttendRows];
      heads.attend({std::min(kMaxAttendRows, rows - row), positions - rows + row, q + at, head_width, out + at, head_width}, slots.pages(0), 0, 0, scratch, sums);
    }
    return int32_t{0};
  });
}
