// The engine's weights: each array by its name, and piece by piece all memory that loading fills.

#include "engine.h"

#include <algorithm>
#include <stdexcept>

#include "checksum.h"

namespace gpt2 {

// Finds a matrix by its weights' name (kind "w") or its bias's (kind "b"); the embedding has no ending and no bias.
Matrix* Engine::find_matrix(const std::string& name, const char* kind) {
  if (name == "wte" && *kind == 'w') return &wte_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "h." + std::to_string(i) + ".";
    if (name == prefix + "attn.c_attn." + kind) return &layers_[i].attn;
    if (name == prefix + "attn.c_proj." + kind) return &layers_[i].attn_proj;
    if (name == prefix + "mlp.c_fc." + kind) return &layers_[i].fc;
    if (name == prefix + "mlp.c_proj." + kind) return &layers_[i].mlp_proj;
  }
  return nullptr;
}

Buffer<float>* Engine::find_vector(const std::string& name) {
  if (name == "wpe") return &wpe_;
  if (name == "ln_f.g") return &ln_f_g_;
  if (name == "ln_f.b") return &ln_f_b_;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string prefix = "h." + std::to_string(i) + ".";
    if (name == prefix + "ln_1.g") return &layers_[i].ln_1_g;
    if (name == prefix + "ln_1.b") return &layers_[i].ln_1_b;
    if (name == prefix + "ln_2.g") return &layers_[i].ln_2_g;
    if (name == prefix + "ln_2.b") return &layers_[i].ln_2_b;
  }
  return nullptr;
}

void Engine::load(const std::string& name, const gpt2_source& source) {
  if (Matrix* matrix = find_matrix(name, "w")) return matrix->pack(kernels_, *pool_, threads_, source);
  Matrix* const biased = find_matrix(name, "b");
  Buffer<float>* const vector = find_vector(name);
  if (!biased && !vector) throw std::invalid_argument("no array of this GPT-2 is called " + name);
  if (!source.values) throw std::invalid_argument(name + " can only come from floats");
  if (biased) return biased->set_bias(source.values);
  std::copy(source.values, source.values + vector->size(), vector->data());
}

Piece Engine::piece(int index) {
  const auto of = [](Buffer<float>& buffer) { return Piece{buffer.data(), static_cast<int64_t>(buffer.bytes())}; };
  if (index < 0) return {nullptr, -1};
  Buffer<float>* vectors[] = {&wpe_, &ln_f_g_, &ln_f_b_};
  if (index < 3) return of(*vectors[index]);
  index -= 3;
  if (index-- == 0) return wte_.piece();
  constexpr int per_layer = 4 + 4;
  if (index / per_layer >= shape_.n_layer) return {nullptr, -1};
  Layer& layer = layers_[static_cast<size_t>(index / per_layer)];
  Buffer<float>* norms[] = {&layer.ln_1_g, &layer.ln_1_b, &layer.ln_2_g, &layer.ln_2_b};
  Matrix* matrices[] = {&layer.attn, &layer.attn_proj, &layer.fc, &layer.mlp_proj};
  index %= per_layer;
  return index < 4 ? of(*norms[index]) : matrices[index - 4]->piece();
}

// Combines the pieces' checksums, each seeded with its index, so members may compute them in any order.
uint64_t Engine::checksum() {
  int count = 0;
  while (piece(count).bytes >= 0) ++count;
  std::atomic<uint64_t> sum{0};
  pool_->run(threads_, [&](Team& team, int member) {
    team.for_each(member, count, 1, [&](int index, int) {
      const Piece part = piece(index);
      sum.fetch_xor(gpt2::checksum(part.data, part.bytes, static_cast<uint64_t>(index)), std::memory_order_relaxed);
    });
  });
  return sum.load();
}

}  // namespace gpt2
