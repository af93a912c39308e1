// Vectors and threads for the C twins.

#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));
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
INLINE vec pick(mask m, vec yes, vec no) { return (vec)(((mask)yes & m) | ((mask)no & ~m)); }

INLINE float sum(vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
#else
  float part[LANES];
  memcpy(part, &v, sizeof part);
  for (int num = LANES / 2; num; num /= 2)
    for (int i = 0; i < num; i++) part[i] += part[i + num];
  return part[0];
#endif
}

// bfloat16, to the nearest, the even one of two.
INLINE float from_half(uint16_t h) {
  const uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}
INLINE uint16_t to_half(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return f == f ? (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16) : 0x7fc0;
}
INLINE vec load_half(const uint16_t *p) {
  halves h;
  memcpy(&h, p, sizeof h);
  return (vec)(__builtin_convertvector(h, words) << 16);
}
INLINE halves narrow(vec v) {
  const words u = (words)v, number = (words)(v == v);
  const words rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return __builtin_convertvector((rounded & number) | (~number & 0x7fc0), halves);
}
INLINE void store_half(uint16_t *p, vec v) {
  const halves h = narrow(v);
  memcpy(p, &h, sizeof h);
}

// Relative error 2e-7; the polynomial is Cephes'.
INLINE vec exponential(vec x) {
  x = pick(x < all(-87), all(-87), x);
  x = pick(x > all(88), all(88), x);
  const vec shifted = x * 1.44269504f + all(12582912.f), n = shifted - all(12582912.f);
  const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = r * 1.98756915e-4f + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  return (p * r * r + r + 1) * (vec)(((mask)shifted - (0x4B400000 - 127)) << 23);
}
