// Every level of this build against the portable one, through the C interface alone: for processors that can only be
// emulated. Integer forms must give the same bytes, float forms the same numbers to rounding; and within a level a
// sequence the same bytes whole and token by token. Prints what it checked; ends with 1 at the first difference.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "gpt2_native.h"

namespace {

using Floats = std::vector<float>;

std::mt19937 generator(1);

Floats draw(size_t count, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  Floats values(count);
  for (float& x : values) x = normal(generator);
  return values;
}

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::printf("FAILED: %s (%s)\n", what.c_str(), gpt2_last_error());
  std::exit(1);
}

gpt2_source floats(const Floats& values, int64_t input_stride, int64_t output_stride) {
  gpt2_source source{};
  source.values = values.data();
  source.input_stride = input_stride;
  source.output_stride = output_stride;
  return source;
}

float to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

void check_matrix(const std::string& level, int form, int inputs, int outputs, int rows) {
  const Floats w = draw(static_cast<size_t>(inputs) * outputs, 1.0f);
  Floats x = draw(static_cast<size_t>(rows) * inputs, 1.0f);
  if (form == GPT2_BF16) for (float& value : x) value = to_bf16(value);   // a level may round them itself
  const gpt2_source source = floats(w, outputs, 1);
  Floats results[2];
  const char* names[] = {"portable", level.c_str()};
  for (int i = 0; i < 2; ++i) {
    gpt2_matrix* matrix = gpt2_matrix_new(names[i], form, inputs, outputs, &source, nullptr);
    require(matrix != nullptr, "a matrix of " + level);
    results[i].resize(static_cast<size_t>(rows) * outputs);
    require(gpt2_matrix_apply(matrix, x.data(), rows, results[i].data()) == 0, "applying it");
    gpt2_matrix_free(matrix);
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    const float slack = form >= GPT2_INT8 ? 0.0f : 1e-5f * std::sqrt(static_cast<float>(inputs)) * 10;
    require(std::fabs(results[0][i] - results[1][i]) <= slack, level + " in form " + std::to_string(form));
  }
}

// Attention over whole numbers: exponentials round otherwise from level to level, which may move a weight by one step of
// 127 * 128 (1 in 100 for other roundings). In bf16 a level may round keys and values to 11 or to 8 bits. Alone a row has
// the same bits.
void check_attention(const std::string& level, int form, int width, int positions, int rows) {
  const auto numbers = [=](int count) { return draw(static_cast<size_t>(count) * width, 1.0f); };
  const Floats q = numbers(rows), k = numbers(positions), v = numbers(positions);
  Floats results[2], alone(static_cast<size_t>(width));
  const char* names[] = {"portable", level.c_str()};
  for (int i = 0; i < 2; ++i) {
    results[i].resize(q.size());
    require(gpt2_attend(names[i], form, width, positions, rows, q.data(), k.data(), v.data(), results[i].data()) == 0, "attending");
  }
  float largest = 0;
  for (const float x : v) largest = std::max(largest, std::fabs(x));
  const float slack = largest * (form == GPT2_BF16 ? 1.0f / 64 : 1.01f / (127 * 128));
  for (size_t i = 0; i < q.size(); ++i) require(std::fabs(results[0][i] - results[1][i]) <= slack, level + " in attention");
  for (int row = 0; row < rows; row += 5) {
    const float* own = q.data() + static_cast<size_t>(row) * width;
    require(gpt2_attend(names[1], form, width, positions - rows + row + 1, 1, own, k.data(), v.data(), alone.data()) == 0, "attending");
    require(std::equal(alone.begin(), alone.end(), results[1].begin() + static_cast<std::ptrdiff_t>(row) * width), level + ": a row alone in attention");
  }
}

constexpr gpt2_shape kShape = {2, 3, 48, 150, 211, 100, 1e-5f};

using Weights = std::map<std::string, std::pair<Floats, int>>;   // and the columns of a matrix

Weights draw_weights() {
  const int D = kShape.n_embd, F = kShape.n_inner;
  Weights all;
  const auto add = [&](const std::string& name, int rows, int columns) {
    all[name] = {draw(static_cast<size_t>(rows) * columns, 0.2f), columns};
  };
  add("wte", kShape.vocab_size, D);
  add("wpe", kShape.n_positions, D);
  add("ln_f.g", 1, D);
  add("ln_f.b", 1, D);
  for (int layer = 0; layer < kShape.n_layer; ++layer) {
    const std::string h = "h." + std::to_string(layer) + ".";
    for (const char* norm : {"ln_1.g", "ln_1.b", "ln_2.g", "ln_2.b"}) add(h + norm, 1, D);
    add(h + "attn.c_attn.w", D, 3 * D);
    add(h + "attn.c_attn.b", 1, 3 * D);
    add(h + "attn.c_proj.w", D, D);
    add(h + "attn.c_proj.b", 1, D);
    add(h + "mlp.c_fc.w", D, F);
    add(h + "mlp.c_fc.b", 1, F);
    add(h + "mlp.c_proj.w", F, D);
    add(h + "mlp.c_proj.b", 1, D);
  }
  return all;
}

gpt2_engine* load(const std::string& level, int form, const Weights& weights) {
  gpt2_engine* engine = gpt2_engine_new(&kShape, form, level.c_str(), 1);
  require(engine != nullptr, "an engine of " + level);
  for (const auto& [name, values] : weights) {
    const int64_t columns = values.second;
    const bool by_output = name == "wte";
    const gpt2_source source = floats(values.first, by_output ? 1 : columns, by_output ? columns : 1);
    require(gpt2_engine_load(engine, name.c_str(), &source) == 0, "loading " + name);
  }
  return engine;
}

Floats logits_of(const std::string& level, int form, const Weights& weights, int chunk) {
  gpt2_engine* engine = load(level, form, weights);
  const int slot = gpt2_slot_new(engine);
  Floats logits(static_cast<size_t>(kShape.n_positions) * kShape.vocab_size);
  for (int start = 0; start < kShape.n_positions; start += chunk) {
    const int count = std::min(chunk, kShape.n_positions - start);
    std::vector<int32_t> tokens;
    for (int i = 0; i < count; ++i) tokens.push_back((start + i) * 37 % kShape.vocab_size);
    gpt2_work work{};
    work.slot = slot;
    work.token_count = work.rows = count;
    work.tokens = tokens.data();
    work.logits = logits.data() + static_cast<size_t>(start) * kShape.vocab_size;
    require(gpt2_step(engine, &work, 1) == 0, "a step");
  }
  gpt2_engine_free(engine);
  return logits;
}

// Tokens drawn within a step against the plain definition: the largest logit + noise, of its own rows of logits.
void check_draws(const std::string& level, const Weights& weights) {
  gpt2_engine* engine = load(level, GPT2_FP32, weights);
  const int R = kShape.n_positions, V = kShape.vocab_size;
  std::vector<int32_t> tokens(static_cast<size_t>(R)), drawn(tokens.size());
  std::vector<uint64_t> keys(tokens.size());
  for (int i = 0; i < R; ++i) {
    tokens[static_cast<size_t>(i)] = i % V;
    keys[static_cast<size_t>(i)] = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(i);
  }
  Floats logits(static_cast<size_t>(R) * V);
  gpt2_work work{};
  work.slot = gpt2_slot_new(engine);
  work.token_count = work.rows = R;
  work.tokens = tokens.data();
  work.logits = logits.data();
  work.draw_keys = keys.data();
  work.drawn = drawn.data();
  work.draw_temperature = 1.0f;
  work.draw_top_p = 1.0;
  require(gpt2_step(engine, &work, 1) == 0, "a step with draws");
  for (size_t row = 0; row < keys.size(); ++row) {
    double best = -INFINITY;
    int winner = 0;
    for (int id = 0; id < V; ++id) {
      uint64_t z = keys[row] + 0x9E3779B97F4A7C15u * (static_cast<uint64_t>(id) + 1);
      z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
      z = (z ^ z >> 27) * 0x94D049BB133111EBu;
      const double u = (static_cast<double>((z ^ z >> 31) >> 12) + 0.5) / 4503599627370496.0;
      const double score = static_cast<double>(logits[row * static_cast<size_t>(V) + static_cast<size_t>(id)]) - std::log(-std::log(u));
      if (score <= best) continue;
      best = score;
      winner = id;
    }
    require(drawn[row] == winner, level + ": a drawn token");
  }
  gpt2_engine_free(engine);
}

}  // namespace

int main() {
  std::stringstream names(gpt2_levels());
  if (*gpt2_last_error()) std::printf("%s\n", gpt2_last_error());
  const Weights weights = draw_weights();
  for (std::string level; std::getline(names, level, ',');) {
    for (const auto& [width, positions, rows] : {std::tuple{64, 300, 23}, {64, 64, 1}, {80, 130, 17}, {20, 67, 8}, {7, 67, 5}, {1, 1, 1}}) {
      for (const int form : {GPT2_BF16, GPT2_INT8}) check_attention(level, form, width, positions, rows);
    }
    for (int form = GPT2_FP32; form <= GPT2_INT4; ++form) {
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 13, 17, 47}) {
        for (const auto& [inputs, outputs] : {std::pair{64, 48}, {35, 7}, {131, 100}}) check_matrix(level, form, inputs, outputs, rows);
      }
      const Floats whole = logits_of(level, form, weights, kShape.n_positions);
      require(whole == logits_of(level, form, weights, 1), level + ": token by token");
      require(whole == logits_of(level, form, weights, 7), level + ": seven tokens at a time");
      const Floats exact = logits_of("portable", GPT2_FP32, weights, kShape.n_positions);
      double dot = 0, one = 0, other = 0;
      for (size_t i = 0; i < whole.size(); ++i) {
        dot += static_cast<double>(whole[i]) * exact[i];
        one += static_cast<double>(whole[i]) * whole[i];
        other += static_cast<double>(exact[i]) * exact[i];
      }
      require(dot / std::sqrt(one * other) > (form == GPT2_INT4 ? 0.95 : form == GPT2_INT8 ? 0.999 : 0.9999), level + ": far from fp32");
    }
    check_draws(level, weights);
    std::printf("%s: well\n", level.c_str());
  }
}
