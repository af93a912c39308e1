// Vectors and threads for the C twins.

#pragma once

#include <math.h>
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
#define INLINE static inline __attribute__((always_inline))

// Left open: they resolve to the OpenMP library that torch has loaded, so that both share one pool of threads.
extern void GOMP_parallel(void (*work)(void *), void *job, unsigned num_threads, unsigned flags);

static void run(void (*work)(void *), void *job, int num_threads) {
  if (num_threads > 1)
    GOMP_parallel(work, job, (unsigned)num_threads, 0);
  else
    work(job);
}

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
