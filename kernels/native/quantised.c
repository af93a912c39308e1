// Rows of activations to bytes, and the sums of their products back. Rows are float32 or bfloat16, contiguous.

#include <float.h>

#include "vector.h"

enum { FEW = 1 << 15, STRIP = 8 };  // values that are not worth a second thread; rows that one takes at once
typedef uint8_t bytes __attribute__((vector_size(LANES)));

INLINE vec absolute(vec x) { return (vec)((mask)x & 0x7fffffff); }
// To whole numbers, the even one of two; |x| < 2^22.
INLINE vec whole(vec x) { return (x + all(12582912.f)) - all(12582912.f); }

// num values, at most LANES; a known number is far faster to copy.
#define COPY(to, from, num)                                          \
  do {                                                               \
    if ((num) >= LANES)                                              \
      memcpy(to, from, LANES * sizeof *(from));                      \
    else                                                             \
      memcpy(to, from, (size_t)(num) * sizeof *(from));              \
  } while (0)

// num of the values from i on, and zeros behind them.
INLINE vec fetch(const void *row, int half, long i, long num) {
  if (!half) {
    vec v = all(0);
    COPY(&v, (const float *)row + i, num);
    return v;
  }
  halves h = {0};
  COPY(&h, (const uint16_t *)row + i, num);
  return (vec)(__builtin_convertvector(h, words) << 16);
}

INLINE void put(void *row, int half, long i, long num, vec v) {
  if (!half) {
    COPY((float *)row + i, (const float *)&v, num);
    return;
  }
  const halves h = narrow(v);
  COPY((uint16_t *)row + i, (const uint16_t *)&h, num);
}

INLINE void put_bytes(uint8_t *row, long i, long num, vec v) {
  const bytes b = __builtin_convertvector(__builtin_convertvector(v + 128.5f, mask), bytes);
  COPY(row + i, (const uint8_t *)&b, num);
}

typedef struct {
  const void *x;
  uint8_t *out;
  float *steps;
  long N, C, next;
  int half, fine;
} Quantise;

INLINE float row_to_bytes(const void *x, int half, long C, uint8_t *coarse, uint8_t *rest) {
  vec top = all(0);
  mask finite = all(0) == all(0);
  for (long i = 0; i < C; i += LANES) {
    const vec v = absolute(fetch(x, half, i, C - i));
    top = pick(v > top, v, top);
    finite &= v <= all(FLT_MAX);
  }
  float most = 0;
  int sound = 1;
  for (int i = 0; i < LANES; i++) {
    most = top[i] > most ? top[i] : most;
    sound &= finite[i] != 0;
  }
  const float step = most / 127 > FLT_MIN ? most / 127 : FLT_MIN, inverse = 1 / step;
  for (long i = 0; i < C; i += LANES) {
    vec v = fetch(x, half, i, C - i) * inverse;
    v = pick(absolute(v) <= all(128), v, all(0));  // larger, or no number, where the row is not finite
    if (rest) {
      const vec near = whole(v);
      put_bytes(rest, i, C - i, (v - near) * 254);
      v = near;
    }
    put_bytes(coarse, i, C - i, v);
  }
  return sound ? step : NAN;
}

float quantise_row(const void *x, int half, long C, uint8_t *coarse, uint8_t *rest) {
  return half ? row_to_bytes(x, 1, C, coarse, rest) : row_to_bytes(x, 0, C, coarse, rest);
}

static void quantise_work(void *data) {
  Quantise *job = data;
  const long C = job->C;
  for (long first; (first = STRIP * take(&job->next)) < job->N;)
    for (long n = first; n < smaller(first + STRIP, job->N); n++) {
      uint8_t *rest = job->fine ? job->out + (job->N + n) * C : NULL;
      job->steps[n] = quantise_row((const char *)job->x + n * C * (job->half ? 2 : 4), job->half, C, job->out + n * C, rest);
    }
}

// x [N, C]; out [N, C], or with fine [2 N, C]; steps [N].
void quantise_rows(const void *x, uint8_t *out, float *steps, long N, long C, int half, int fine, int num_threads) {
  Quantise job = {x, out, steps, N, C, 0, half, fine};
  run(quantise_work, &job, N * C < FEW ? 1 : num_threads);
}

// By tanh, which is 2 sigmoid(2 u) - 1.
INLINE vec gelu(vec x) {
  const vec u = x * (x * x * (2 * 0.797884561f * 0.044715f) + 2 * 0.797884561f);
  return x / (1 + exponential(-u));
}

typedef struct {
  const void *sums;
  const float *steps, *bias;
  void *out;
  long N, O, next;
  int half, fine, gelu;
} Dequantise;

INLINE void dequantise_row(const Dequantise *job, long n, int half) {
  const long O = job->O, row = O * (half ? 2 : 4);
  const char *sums = (const char *)job->sums + n * row, *rest = sums + job->N * row;
  void *out = (char *)job->out + n * row;
  for (long i = 0; i < O; i += LANES) {
    vec v = fetch(sums, half, i, O - i);
    if (job->fine) v += fetch(rest, half, i, O - i) * (1.f / 254);
    v *= job->steps[n];
    if (job->bias) v += fetch(job->bias, 0, i, O - i);
    put(out, half, i, O - i, job->gelu ? gelu(v) : v);
  }
}

static void dequantise_work(void *data) {
  Dequantise *job = data;
  for (long first; (first = STRIP * take(&job->next)) < job->N;)
    for (long n = first; n < smaller(first + STRIP, job->N); n++) job->half ? dequantise_row(job, n, 1) : dequantise_row(job, n, 0);
}

// sums [N, O], or with fine [2 N, O]; steps [N]; bias [O] or null; out [N, O].
void dequantise_rows(const void *sums, const float *steps, const float *bias, void *out, long N, long O, int half, int fine,
                int gelu, int num_threads) {
  Dequantise job = {sums, steps, bias, out, N, O, 0, half, fine, gelu};
  run(dequantise_work, &job, N * O < FEW ? 1 : num_threads);
}
