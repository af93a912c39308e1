// What stands between the products of a decode step: norms, rotary positions, gated activation, attention of one row to a
// paged cache. bfloat16 or float32; arithmetic in float32.

#include <float.h>

#include "vector.h"

INLINE vec get(const void *p, long i, int half) { return half ? load_half((const uint16_t *)p + i) : load((const float *)p + i); }
INLINE void set(void *p, long i, vec v, int half) {
  if (half)
    store_half((uint16_t *)p + i, v);
  else
    store((float *)p + i, v);
}
INLINE float get_one(const void *p, long i, int half) {
  return half ? from_half(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}
INLINE void set_one(void *p, long i, float f, int half) {
  if (half)
    ((uint16_t *)p)[i] = to_half(f);
  else
    ((float *)p)[i] = f;
}
INLINE vec rounded(vec v, int half) { return half ? (vec)(__builtin_convertvector(narrow(v), words) << 16) : v; }
INLINE float rounded_one(float f, int half) { return half ? from_half(to_half(f)) : f; }

enum { STRIP = 8, FEW = 1 << 15 };  // rows that a thread takes at once; values that are not worth a second one

typedef struct {
  const void *x, *residual, *weight;
  void *y, *total;
  float eps;
  long N, C, next;
  int half;
} Norm;

INLINE void norm_row(const Norm *job, long n, int half) {
  const long C = job->C, row = n * C, whole = C / LANES * LANES;
  vec squares[2] = {all(0), all(0)};
  float rest = 0;
  for (long c = 0; c < whole; c += LANES) {
    vec v = get(job->x, row + c, half);
    if (job->residual) set(job->total, row + c, v = rounded(v + get(job->residual, row + c, half), half), half);
    squares[c / LANES % 2] += v * v;
  }
  for (long c = whole; c < C; c++) {
    float f = get_one(job->x, row + c, half);
    if (job->residual) set_one(job->total, row + c, f = rounded_one(f + get_one(job->residual, row + c, half), half), half);
    rest += f * f;
  }
  const float scale = 1 / sqrtf((sum(squares[0] + squares[1]) + rest) / (float)C + job->eps);
  const void *from = job->residual ? job->total : job->x;
  for (long c = 0; c < whole; c += LANES)
    set(job->y, row + c, get(job->weight, c, half) * rounded(get(from, row + c, half) * scale, half), half);
  for (long c = whole; c < C; c++)
    set_one(job->y, row + c, get_one(job->weight, c, half) * rounded_one(get_one(from, row + c, half) * scale, half), half);
}

static void norm_work(void *data) {
  Norm *job = data;
  for (long first; (first = STRIP * take(&job->next)) < job->N;)
    for (long n = first; n < smaller(first + STRIP, job->N); n++) job->half ? norm_row(job, n, 1) : norm_row(job, n, 0);
}

// y = rms_norm(x + residual), total = x + residual, each [N, C]; without residual there is no total.
void step_norm(const void *x, const void *residual, const void *weight, void *y, void *total, float eps, long N, long C, int half,
               int num_threads) {
  Norm job = {x, residual, weight, y, total, eps, N, C, 0, half};
  run(norm_work, &job, N * C < FEW ? 1 : num_threads);
}

typedef struct {
  const void *x;
  void *y;
  long N, I, next;
  int half;
} Gate;

INLINE void gate_row(const Gate *job, long n, int half) {
  const long I = job->I, gate = 2 * n * I, up = gate + I;
  long i = 0;
  for (; i + LANES <= I; i += LANES) {
    const vec g = get(job->x, gate + i, half);
    set(job->y, n * I + i, rounded(g / (1 + exponential(-g)), half) * get(job->x, up + i, half), half);
  }
  for (; i < I; i++) {
    const float g = get_one(job->x, gate + i, half);
    set_one(job->y, n * I + i, rounded_one(g / (1 + expf(-g)), half) * get_one(job->x, up + i, half), half);
  }
}

static void gate_work(void *data) {
  Gate *job = data;
  for (long n; (n = take(&job->next)) < job->N;) job->half ? gate_row(job, n, 1) : gate_row(job, n, 0);
}

// silu(gate) * up of x [N, 2 I], y [N, I].
void step_gate(const void *x, void *y, long N, long I, int half, int num_threads) {
  Gate job = {x, y, N, I, 0, half};
  run(gate_work, &job, N * I < FEW ? 1 : num_threads);
}

// out [heads, D] of one row x, turned: component i with i + D / 2.
INLINE void turn(const void *x, long at, const void *cos, const void *sin, long turns, void *out, long to, long heads, long D,
                 int half, int half_turns) {
  for (long h = 0; h < heads; h++, at += D, to += D) {
    long i = 0;
    for (; i + LANES <= D / 2; i += LANES) {
      const vec a = get(x, at + i, half), b = get(x, at + D / 2 + i, half);
      const vec c = get(cos, turns + i, half_turns), s = get(sin, turns + i, half_turns);
      set(out, to + i, a * c - b * s, half);
      set(out, to + D / 2 + i, b * c + a * s, half);
    }
    for (; i < D / 2; i++) {
      const float a = get_one(x, at + i, half), b = get_one(x, at + D / 2 + i, half);
      const float c = get_one(cos, turns + i, half_turns), s = get_one(sin, turns + i, half_turns);
      set_one(out, to + i, a * c - b * s, half);
      set_one(out, to + D / 2 + i, b * c + a * s, half);
    }
  }
}

typedef struct {
  const void *q, *k, *v, *cos, *sin;
  void *keys, *values, *out;
  const int64_t *slots;
  long N, H, K, D, q_row, k_row, v_row, next;
  int half, half_turns;
} Rotate;

INLINE void rotate_row(const Rotate *r, long n, int half, int half_turns) {
  const long size = half ? 2 : 4, width = r->K * r->D, slot = r->slots[n] * width, turns = n * r->D / 2;
  turn(r->q, n * r->q_row, r->cos, r->sin, turns, r->out, n * r->H * r->D, r->H, r->D, half, half_turns);
  turn(r->k, n * r->k_row, r->cos, r->sin, turns, r->keys, slot, r->K, r->D, half, half_turns);
  memcpy((char *)r->values + slot * size, (const char *)r->v + n * r->v_row * size, (size_t)(width * size));
}

static void rotate_work(void *data) {
  Rotate *r = data;
  for (long n; (n = take(&r->next)) < r->N;) {
    if (r->half)
      r->half_turns ? rotate_row(r, n, 1, 1) : rotate_row(r, n, 1, 0);
    else
      r->half_turns ? rotate_row(r, n, 0, 1) : rotate_row(r, n, 0, 0);
  }
}

// Rows q [N, H, D] to out; k and v [N, K, D] to their slots in the caches; rows of q, k and v lie so many values apart.
void step_rotate(const void *q, const void *k, const void *v, const void *cos, const void *sin, void *keys, void *values, void *out,
                 const int64_t *slots, long N, long H, long K, long D, long q_row, long k_row, long v_row, int half, int half_turns,
                 int num_threads) {
  Rotate job = {q, k, v, cos, sin, keys, values, out, slots, N, H, K, D, q_row, k_row, v_row, 0, half, half_turns};
  run(rotate_work, &job, N * (H + K) * D < FEW ? 1 : num_threads);
}

enum { HEADS = 8, KEYS = 32, WIDEST = 256, SOME_KEYS = 128 };
// query heads and keys that are taken at once; the widest head; keys of all sequences that are worth a second thread

typedef struct {
  const void *q, *keys, *values;
  void *out;
  const int32_t *blocks, *kv_len;
  long B, M, P, H, K, D, next;
  int half;
} Attend;

// Up to HEADS query heads that share a key head, by a running softmax.
INLINE void attend_heads(const Attend *job, long b, long k, long first, int heads, int half) {
  const long D = job->D, P = job->P, row = job->K * D;
  const int wide = (int)(D / LANES);
  float q[HEADS][WIDEST], odds[HEADS][KEYS], most[HEADS], total[HEADS];
  vec acc[HEADS][WIDEST / LANES];
  const float scale = 1 / sqrtf((float)D);
  for (int h = 0; h < heads; h++) {
    for (int i = 0; i < wide; i++) {
      store(q[h] + i * LANES, get(job->q, (b * job->H + first + h) * D + i * LANES, half) * scale);
      acc[h][i] = all(0);
    }
    most[h] = -FLT_MAX, total[h] = 0;
  }
  for (long at = 0; at < job->kv_len[b];) {
    // keys of one block that lie one behind the other
    const long inside = at % P, num = smaller(smaller(KEYS, P - inside), job->kv_len[b] - at);
    const long start = (job->blocks[b * job->M + at / P] * P + inside) * row + k * D;
    float top[HEADS];
    for (int h = 0; h < heads; h++) top[h] = most[h];
    for (long j = 0; j < num; j++) {
      vec dots[HEADS];
      for (int h = 0; h < heads; h++) dots[h] = all(0);
      for (int i = 0; i < wide; i++) {
        const vec key = get(job->keys, start + j * row + i * LANES, half);
        for (int h = 0; h < heads; h++) dots[h] += key * load(q[h] + i * LANES);
      }
      for (int h = 0; h < heads; h++) {
        const float dot = sum(dots[h]);
        odds[h][j] = dot;
        top[h] = dot > top[h] || dot != dot ? dot : top[h];
      }
    }
    for (int h = 0; h < heads; h++) {
      const float fade = expf(most[h] - top[h]);
      for (long j = num; j < KEYS; j++) odds[h][j] = top[h];
      for (int j = 0; j < KEYS; j += LANES) store(odds[h] + j, exponential(load(odds[h] + j) - top[h]));
      for (long j = num; j < KEYS; j++) odds[h][j] = 0;
      vec sums = all(0);
      for (int j = 0; j < KEYS; j += LANES) sums += load(odds[h] + j);
      total[h] = total[h] * fade + sum(sums);
      most[h] = top[h];
      for (int i = 0; i < wide; i++) acc[h][i] *= fade;
    }
    for (long j = 0; j < num; j++)
      for (int i = 0; i < wide; i++) {
        const vec value = get(job->values, start + j * row + i * LANES, half);
        for (int h = 0; h < heads; h++) acc[h][i] += value * odds[h][j];
      }
    at += num;
  }
  for (int h = 0; h < heads; h++)
    for (int i = 0; i < wide; i++)
      set(job->out, (b * job->H + first + h) * D + i * LANES, total[h] != 0 ? acc[h][i] / total[h] : all(0), half);
}

static void attend_work(void *data) {
  Attend *job = data;
  const long group = job->H / job->K, parts = cover(group, HEADS);
  for (long t; (t = take(&job->next)) < job->B * job->K * parts;) {
    const long b = t / (job->K * parts), k = t / parts % job->K, first = k * group + t % parts * HEADS;
    const int heads = (int)smaller(HEADS, (k + 1) * group - first);
#define CASE(NUM) \
  case NUM: job->half ? attend_heads(job, b, k, first, NUM, 1) : attend_heads(job, b, k, first, NUM, 0); break;
    switch (heads) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
  }
}

// q and out [B, H, D], D whole vectors and at most WIDEST; keys and values [num_blocks, P, K, D]; blocks [B, M].
void step_attend(const void *q, const void *keys, const void *values, void *out, const int32_t *blocks, const int32_t *kv_len,
                 long B, long M, long P, long H, long K, long D, int half, int num_threads) {
  Attend job = {q, keys, values, out, blocks, kv_len, B, M, P, H, K, D, 0, half};
  long keys_read = 0;
  for (long b = 0; b < B; b++) keys_read += kv_len[b];
  run(attend_work, &job, keys_read < SOME_KEYS ? 1 : num_threads);
}

int step_takes(long D) { return D % LANES == 0 && D <= WIDEST; }
