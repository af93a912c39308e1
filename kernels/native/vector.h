// Vectors and threads for the C twins.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__FMA__) && !defined(__ARM_FEATURE_FMA)
#error "sine, exponential and products are written for fused multiply-add"
#endif

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int mask __attribute__((vector_size(4 * LANES)));
#define HIDDEN __attribute__((visibility("hidden")))
#define INLINE static inline __attribute__((always_inline))

// In pool.c: runs work(job) here and on up to num_threads - 1 others, which share it by `take`.
HIDDEN void run(void (*work)(void *), void *job, int num_threads);

// In quantised.c: x [C] to bytes around 128, and with rest to 254ths of what is left; their step, NaN where x is not finite.
HIDDEN float quantise_row(const void *x, int half, long C, uint8_t *coarse, uint8_t *rest);

INLINE long take(long *next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }
INLINE long smaller(long a, long b) { return a < b ? a : b; }
INLINE long larger(long a, long b) { return a > b ? a : b; }
INLINE long cover(long n, long step) { return (n + step - 1) / step; }

INLINE vec load(const float *p) {
  vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec all(float x) { return x - (vec){0}; }
