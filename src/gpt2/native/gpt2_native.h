/* The C interface of the CPU engine: everything Python, or any other language, may call.

   The caller makes and frees handles. A function that can fail returns a negative number (or a null handle);
   gpt2_last_error then says why, for the calling thread. Handles must be valid, and so must pointers, except those
   documented as null for unwanted results. An engine is not thread-safe: one caller at a time. Calls may be long;
   they need no lock of the caller's language. */

#ifndef GPT2_NATIVE_H
#define GPT2_NATIVE_H

#include <stdint.h>

#if defined(_WIN32)
#define GPT2_API __declspec(dllexport)
#else
#define GPT2_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define GPT2_ABI 10

enum { GPT2_FP32 = 0, GPT2_BF16 = 1, GPT2_INT8 = 2, GPT2_INT4 = 3, GPT2_INT4_WHOLE = 4 };

enum { GPT2_FAILED = -1, GPT2_NO_MEMORY = -2, GPT2_NOT_FINITE = -3 };

typedef struct gpt2_engine gpt2_engine;
typedef struct gpt2_matrix gpt2_matrix;

typedef struct {
  int32_t n_layer, n_head, n_embd, n_positions, vocab_size, n_inner;
  float layer_norm_epsilon;
} gpt2_shape;

/* Numbers to pack: floats, or codes with one scale per output; int4 codes, -8..7, also have an integer scale per group
   of 32 inputs. weight(k, o) is at k * input_stride + o * output_stride. */
typedef struct {
  const float *values;
  const int8_t *codes;
  const float *scales;              /* [outputs] */
  const uint8_t *group_scales;      /* [outputs][groups], int4 only */
  int64_t input_stride, output_stride;
} gpt2_source;

/* One piece of work: tokens to append to a slot, and where to write the wanted results of the last `rows` of them.
   R = rows, V = vocab_size, D = n_embd, S = tokens in the slot afterwards. A null pointer: not wanted. */
typedef struct {
  int32_t slot, token_count;
  const int32_t *tokens;
  int32_t rows, best;               /* best = K, at most V */
  float *logits;                    /* [R][V] */
  int32_t *best_ids;                /* [R][K] */
  float *best_logprobs;             /* [R][K] */
  const int32_t *targets;           /* [R] */
  float *target_logprobs;           /* [R] */
  int32_t *target_ranks;            /* [R] */
  float *entropies;                 /* [R] */
  const uint64_t *draw_keys;        /* [R]: of the noise, as generation/draws.py defines it */
  int32_t *drawn;                   /* [R]: tokens drawn with that noise at draw_temperature; 0: the most likely */
  float draw_temperature;
  int32_t draw_top_k;               /* draw from this many most likely tokens, at most V; 0: from all */
  double draw_top_p, draw_min_p;    /* of these, what generation/filters.py keeps; 1 and 0: all */
  const int32_t *text;              /* [text_count], up to the last row: the tokens that penalties apply to before a draw; row i
                                       ignores the last R - 1 - i of it */
  int32_t text_count, prompt_count; /* the first prompt_count are the prompt */
  float repetition_penalty;         /* this and the next two: see generation/filters.py */
  double presence_penalty, frequency_penalty;
  int32_t residual_count;
  const int32_t *residual_depths;   /* [residual_count] */
  float *residual;                  /* [residual_count][R][D] */
  int32_t attention_count;
  const int32_t *attention_heads;   /* [attention_count][2]: layer, head */
  float *attention;                 /* [attention_count][R][S] */
} gpt2_work;

GPT2_API int32_t gpt2_abi(void);
/* SHA-256, in hexadecimal, of one line "NAME SHA-256" per source file, sorted by name; empty if the build did not set it. */
GPT2_API const char *gpt2_sources(void);
GPT2_API const char *gpt2_last_error(void);
/* "avx2,portable": the levels in this build that this machine runs, best first. gpt2_last_error then says why an expected
   level is missing; usually it is empty. */
GPT2_API const char *gpt2_levels(void);

/* An engine without weights. form is the form of the matrices; the token embedding, which is also the head, is int8 if form
   is int4, and int4 if form is int4 whole. */
GPT2_API gpt2_engine *gpt2_engine_new(const gpt2_shape *shape, int32_t form, const char *level, int32_t threads);
/* Loads one array by OpenAI's name ("h.0.attn.c_attn.w"); it is packed or copied before the call returns. */
GPT2_API int32_t gpt2_engine_load(gpt2_engine *engine, const char *name, const gpt2_source *source);
/* The memory that loading fills, piece by piece: the number of bytes at *data, or -1 past the last piece. A shape and form
   have the same pieces at every level, so they can be saved and restored instead of loading. */
GPT2_API int64_t gpt2_engine_piece(gpt2_engine *engine, int32_t index, void **data);
/* A checksum of all pieces. */
GPT2_API uint64_t gpt2_engine_checksum(gpt2_engine *engine);
GPT2_API void gpt2_engine_free(gpt2_engine *engine);

GPT2_API int32_t gpt2_slot_new(gpt2_engine *engine);
GPT2_API int32_t gpt2_slot_truncate(gpt2_engine *engine, int32_t slot, int32_t length);
GPT2_API int32_t gpt2_slot_fork(gpt2_engine *engine, int32_t slot);
GPT2_API int32_t gpt2_slot_free(gpt2_engine *engine, int32_t slot);
GPT2_API int64_t gpt2_slots_bytes(const gpt2_engine *engine);

/* One forward step. On failure no slot has changed its length. */
GPT2_API int32_t gpt2_step(gpt2_engine *engine, const gpt2_work *work, int32_t count);

/* Peak rates of this machine, all threads together; each takes a third of a second. Multiply-adds per second in the level's
   products for a form, from registers; bytes per second read from a buffer of that size, or 0 if it cannot be allocated. */
GPT2_API double gpt2_product_rate(const char *level, int32_t form, int32_t threads);
GPT2_API double gpt2_read_rate(int64_t bytes, int32_t threads);

/* A single matrix, for tests: y[n][outputs] = x[n][inputs] times the packed weights, plus bias. */
GPT2_API gpt2_matrix *gpt2_matrix_new(const char *level, int32_t form, int32_t inputs, int32_t outputs, const gpt2_source *source, const float *bias);
GPT2_API void gpt2_matrix_read(const gpt2_matrix *matrix, int32_t output, float *weights);
GPT2_API int32_t gpt2_matrix_apply(const gpt2_matrix *matrix, const float *x, int32_t rows, float *y);
GPT2_API void gpt2_matrix_free(gpt2_matrix *matrix);
/* Attention of a single head, for tests, as an engine of that form computes it: queries [rows][D] of the last rows of keys
   and values [positions][D], D = head_width; writes out [rows][D]. */
GPT2_API int32_t gpt2_attend(const char *level, int32_t form, int32_t head_width, int32_t positions, int32_t rows, const float *q, const float *k, const float *v, float *out);

#ifdef __cplusplus
}
#endif
#endif
