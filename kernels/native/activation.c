// BigVGAN's activation for a CPU: twice the rate, x + sin(a x)^2 / b, back again. Float32, contiguous.

#include "vector.h"

enum { TILE = 1024, HALO = 3, ROOM = TILE + 4 * HALO + 2 * LANES };  // of samples; filters reach 3 to each side
#define LARGEST 1e6f  // angles up to which two parts of pi keep the reduction exact

// x + sin(a x)^2 * inverse. The sign of the sine does not matter, so that angles are reduced to -pi/2..pi/2.
INLINE vec snake(vec x, float a, float inverse) {
  const vec round = all(12582912.f), z = a * x;  // 1.5 * 2^23: adding it leaves whole numbers
  const vec n = (z * 0.318309886f + round) - round;
  const vec r = (z - n * 3.14159274f) + n * 8.74227766e-8f;
  const vec q = r * r;
  vec p = q * 2.60576464e-6f - 1.9809596e-4f;  // fitted, relative error 6e-9
  p = p * q + 8.33306616e-3f;
  p = p * q - 1.66666595e-1f;
  const vec s = p * q * r + r;
  return s * s * inverse + x;
}

// As above for any angle.
INLINE vec slow_snake(vec x, float a, float inverse) {
  for (int i = 0; i < LANES; i++) {
    const float s = sinf(a * x[i]);
    x[i] += s * s * inverse;
  }
  return x;
}

typedef struct {
  const float *x, *alpha, *beta, *taps;
  float *y;
  long B, C, T, next;
} Activation;

// The samples at twice the rate that fall on and between those at p + 3 and p + 2.
INLINE vec upper(const float *p, const float *f) {
  return 2 * (f[11] * load(p) + f[9] * load(p + 1) + f[7] * load(p + 2) + f[5] * load(p + 3) + f[3] * load(p + 4) +
              f[1] * load(p + 5));
}
INLINE vec lower(const float *p, const float *f) {
  return 2 * (f[10] * load(p) + f[8] * load(p + 1) + f[6] * load(p + 2) + f[4] * load(p + 3) + f[2] * load(p + 4) +
              f[0] * load(p + 5));
}

static void activation_tile(const Activation *job, long row, long first, long last) {
  const float *f = job->taps, *x = job->x + row * job->T;
  const long T = job->T, c = row % job->C;
  const float a = expf(job->alpha[c]), inverse = 1 / (expf(job->beta[c]) + 1e-9f);
  float in[ROOM] = {0}, even[ROOM] = {0}, odd[ROOM] = {0};  // at [0] the sample first - HALO; in: first - 2 HALO
  const long lo = larger(first - HALO, 0), hi = smaller(last + HALO, T), num = hi - lo;
  const long left = larger(lo - HALO, 0), right = smaller(hi + HALO, T);
  memcpy(in + left - (lo - HALO), x + left, (size_t)(right - left) * sizeof(float));
  for (long t = lo - HALO; t < left; t++) in[t - lo + HALO] = x[0];
  for (long t = right; t < hi + HALO; t++) in[t - lo + HALO] = x[T - 1];
  float *e = even + (lo - first + HALO), *o = odd + (lo - first + HALO);
  mask near = all(0) == all(0);
  const vec limit = all(LARGEST / a / 4);  // the filter gains less than that
  for (long t = 0; t < num + 2 * HALO; t += LANES) near &= (load(in + t) <= limit) & (load(in + t) >= -limit);
  int far = 0;
  for (int i = 0; i < LANES; i++) far |= !near[i];  // so is what is no number
  for (long t = 0; !far && t < num; t += LANES) {
    store(e + t, snake(upper(in + t, f), a, inverse));
    store(o + t, snake(lower(in + t + 1, f), a, inverse));
  }
  for (long t = 0; far && t < num; t += LANES) {  // huge angles, infinities and what is no number
    store(e + t, slow_snake(upper(in + t, f), a, inverse));
    store(o + t, slow_snake(lower(in + t + 1, f), a, inverse));
  }
  const long end = last - first + 2 * HALO;
  for (long i = lo - first + HALO; i > 0; i--) even[i - 1] = odd[i - 1] = e[0];
  for (long i = hi - first + HALO; i < end; i++) even[i] = odd[i] = o[num - 1];
  float out[ROOM];
  for (long t = 0; t < last - first; t += LANES) {
    const float *p = even + t, *q = odd + t;
    store(out + t, f[0] * load(q) + f[2] * load(q + 1) + f[4] * load(q + 2) + f[6] * load(q + 3) + f[8] * load(q + 4) +
                       f[10] * load(q + 5) + f[1] * load(p + 1) + f[3] * load(p + 2) + f[5] * load(p + 3) +
                       f[7] * load(p + 4) + f[9] * load(p + 5) + f[11] * load(p + 6));
  }
  memcpy(job->y + row * T + first, out, (size_t)(last - first) * sizeof(float));
}

static void activation_work(void *data) {
  Activation *job = data;
  const long tiles = cover(job->T, TILE), total = job->B * job->C * tiles;
  for (long i; (i = take(&job->next)) < total;) {
    const long first = i % tiles * TILE;
    activation_tile(job, i / tiles, first, smaller(first + TILE, job->T));
  }
}

// x, y [B, C, T]; alpha, beta [C]; taps [12].
void up_snake_down(const float *x, const float *alpha, const float *beta, const float *taps, float *y, long B, long C, long T,
                   int num_threads) {
  Activation job = {x, alpha, beta, taps, y, B, C, T, 0};
  run(activation_work, &job, num_threads);
}
