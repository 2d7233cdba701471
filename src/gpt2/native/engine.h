// The engine: a GPT-2's packed weights, its slots, and the forward step over a batch of work.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "activity.h"
#include "buffer.h"
#include "gpt2_native.h"
#include "heads.h"
#include "matrix.h"
#include "pool.h"
#include "slots.h"

namespace gpt2 {

constexpr int kChunkRows = 256;   // rows that pass through the layers together; longer prompts take several chunks
constexpr int kHeadRows = 32;     // rows whose logits are held at once: 6.4 MB at GPT-2's vocabulary
constexpr int kOwnRows = 2;       // up to this many rows, every member prepares them itself: waiting for another costs more

struct Layer {
  Buffer<float> ln_1_g, ln_1_b, ln_2_g, ln_2_b;
  Matrix attn, attn_proj, fc, mlp_proj;
};

class Engine {
 public:
  // `head_form` is the form of the token embedding, which is also the head: int4 hurts it more than other matrices.
  Engine(const gpt2_shape& shape, Form form, Form head_form, const Kernels& kernels, int threads);

  // Throws std::invalid_argument if there is no such array, or the source does not match it.
  void load(const std::string& name, const gpt2_source& source);
  Piece piece(int index);   // of everything that `load` fills
  uint64_t checksum();      // of all pieces

  Slots& slots() { return slots_; }
  const Slots& slots() const { return slots_; }

  // Why this step is impossible; null if it is possible.
  const char* refusal(const gpt2_work* work, int count) const;

  // False if a logit, key or value was not a finite number. Throws std::bad_alloc before anything has changed.
  bool step(const gpt2_work* work, int count);

 private:
  struct Row { int work, position, token, wanted; bool has_logits; };   // wanted: index among its work's wanted rows, or -1
  struct Stretch { int row, rows; };                   // up to kMaxAttendRows neighbouring rows of one piece of work
  struct Best {                                        // the most likely tokens of a row
    std::vector<std::pair<float, int32_t>> heap;       // of (logit, id)
    std::vector<int32_t> ids;
    std::vector<float> logprobs, below, weights;       // the last two are for draws

    void hold(size_t count) {
      if (count <= weights.size()) return;             // weights grows last: memory may run out on the way
      heap.reserve(count);
      ids.resize(count);
      logprobs.resize(count);
      below.resize(count);
      weights.resize(count);
    }
  };

  Matrix* find_matrix(const std::string& name, const char* kind);
  Buffer<float>* find_vector(const std::string& name);

  void make_room(const gpt2_work* work, int count);
  void forget_new(const gpt2_work* work, int count);
  void begin_chunks() { work_cursor_ = token_cursor_ = 0; }
  void next_chunk(const gpt2_work* work, int count);
  void add_stretches(int first_row, int end);
  void forward(Team& team, int member, const gpt2_work* work);
  void embed(Team& team, int member);
  void block(Team& team, int member, const gpt2_work* work, int layer);
  int drop_unwanted_rows(Team& team, int member);
  void store_stretch(const gpt2_work* work, int layer, const Stretch& stretch, int head);
  void attend_stretch(int member, const gpt2_work* work, int layer, const Stretch& stretch, int head);
  template <class F> void for_each_head(Team& team, int member, const Matrix* next, const F& f);
  void keep_attention(const gpt2_work& work, const Row& row, int layer, int head, const float* scores, float sum);
  void keep_residual(const gpt2_work* work, int depth, int row);
  Activations prepare(Team& team, int member, const Matrix& matrix, Activity& input, int rows);
  Activations prepare_normed(Team& team, int member, const Matrix& matrix, const Buffer<float>& gain, const Buffer<float>& bias, int rows);
  template <class F> Prepared& prepare_rows(Team& team, int member, int rows, const F& f);
  void apply(Team& team, int member, const Matrix& matrix, const Activations& x, int rows, const Output& output, const Matrix* next);
  void read_out(Team& team, int member, const gpt2_work* work);
  void read_row(int member, const gpt2_work& work, int wanted, float* logits);
  void keep_best(int member, const float* logits, float log_total, int count, int32_t* ids, float* logprobs);
  int32_t draw(int member, const gpt2_work& work, int wanted, float* logits, float log_total);
  void penalise(int member, const gpt2_work& work, int wanted, float* logits);

  gpt2_shape shape_;
  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  int threads_;
  int head_width_;
  bool rounds_inner_;           // fc writes its results in the form that mlp_proj reads

  // weights, in the order in which a step reads them
  Arena arena_;
  Matrix wte_;                  // the head; its outputs are the token embeddings
  Buffer<float> wpe_, ln_f_g_, ln_f_b_;
  std::vector<Layer> layers_;

  // slots
  Heads heads_;
  Slots slots_;

  // one chunk at a time
  Arena activities_;
  int work_cursor_ = 0, token_cursor_ = 0;
  std::vector<Row> rows_;
  std::vector<Stretch> stretches_;
  bool whole_stretches_ = false;        // no piece of work spans two stretches
  std::vector<int> head_rows_;          // rows whose logits are wanted
  Activity x_, qkv_, mixed_, inner_, final_, logits_;
  Quantised rounded_inner_;             // replaces inner_ if fc writes bfloat16
  Prepared shared_;                     // of all rows
  std::vector<Prepared> own_;           // for each thread: of up to kOwnRows
  std::vector<Heads::Scratch> attending_;   // for each thread
  std::vector<Best> best_;              // for each thread
  std::vector<std::vector<int32_t>> counts_;   // for each thread: counts of a text's tokens; zeros between rows
  std::atomic<bool> finite_{true};
};

}  // namespace gpt2
