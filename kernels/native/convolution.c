// Convolutions by short Fourier transforms for a CPU: tiles of 8, 16 or 32 samples, a real transform of each, products by
// frequency, and back. Float32, contiguous.

#include "vector.h"

// A complex product takes three real ones, so that `size` real samples become 3 size / 2 - 1 real planes. With d
// samples between the taps, the signal falls into d signals; a tile lies in one of them.

enum { LONGEST = 32, TILES = 96, DEPTH = 128 };  // DEPTH: products that one float sums up
#if defined(__AVX2__) && !defined(__AVX512F__)
enum { ROWS = 4 };
#else
enum { ROWS = 8 };  // ROWS x 3 sums stay in registers
#endif

int rows(void) { return ROWS; }

#define A 0.980785280f
#define B 0.923879533f
#define C 0.831469612f
#define D 0.707106781f
#define E 0.555570233f
#define F 0.382683432f
#define G 0.195090322f
static const float COS[] = {1, A, B, C, D, E, F, G, 0, -G, -F, -E, -D, -C, -B, -A};  // of 2 pi j / 32
static const float SIN[] = {0, G, F, E, D, C, B, A, 1, A, B, C, D, E, F, G};
#undef A
#undef B
#undef C
#undef D
#undef E
#undef F
#undef G

// Spectrum of n real samples, `step` apart, from that of its even and its odd ones.
#define FORWARD(N, N2)                                                                      \
  INLINE void forward##N(const vec *x, int step, vec *re, vec *im) {                        \
    vec er[N2 / 2 + 1], ei[N2 / 2 + 1], dr[N2 / 2 + 1], di[N2 / 2 + 1];                     \
    forward##N2(x, 2 * step, er, ei);                                                       \
    forward##N2(x + step, 2 * step, dr, di);                                                \
    _Pragma("GCC unroll 16") for (int j = 0; j <= N2 / 2; j++) {                            \
      const float c = COS[j * (LONGEST / N)], s = SIN[j * (LONGEST / N)];                         \
      const vec a = j ? c * dr[j] + s * di[j] : dr[j], b = j ? c * di[j] - s * dr[j] : di[j]; \
      re[N2 - j] = er[j] - a, im[N2 - j] = b - ei[j];                                       \
      re[j] = er[j] + a, im[j] = ei[j] + b;                                                 \
    }                                                                                       \
  }
INLINE void forward2(const vec *x, int step, vec *re, vec *im) {
  re[0] = x[0] + x[step], re[1] = x[0] - x[step];
  im[0] = im[1] = (vec){0};
}
FORWARD(4, 2)
FORWARD(8, 4)
FORWARD(16, 8)
FORWARD(32, 16)

// The way back, times n.
#define BACK(N, N2)                                                                          \
  INLINE void back##N(const vec *re, const vec *im, vec *x, int step) {                      \
    vec er[N2 / 2 + 1], ei[N2 / 2 + 1], dr[N2 / 2 + 1], di[N2 / 2 + 1];                      \
    _Pragma("GCC unroll 16") for (int j = 0; j <= N2 / 2; j++) {                             \
      const float c = COS[j * (LONGEST / N)], s = SIN[j * (LONGEST / N)];                          \
      const vec a = re[j] - re[N2 - j], b = im[j] + im[N2 - j];                              \
      er[j] = re[j] + re[N2 - j], ei[j] = im[j] - im[N2 - j];                                \
      dr[j] = j ? c * a - s * b : a, di[j] = j ? c * b + s * a : b;                          \
    }                                                                                        \
    back##N2(er, ei, x, 2 * step);                                                           \
    back##N2(dr, di, x + step, 2 * step);                                                    \
  }
INLINE void back2(const vec *re, const vec *im, vec *x, int step) {
  (void)im;
  x[0] = re[0] + re[1], x[step] = re[0] - re[1];
}
BACK(4, 2)
BACK(8, 4)
BACK(16, 8)
BACK(32, 16)

typedef struct {
  const float *x, *weight, *bias, *plus;
  float *y;
  long B, I, O, T, taps, dilation, size;
  long kept;      // samples that a tile yields
  long per_part;  // tiles in each of the `dilation` signals
  long chunk, num_chunks, slice, num_slices;  // tiles and rows of O in one piece of work
  long next;
  int failed;
} Convolution;

// Where a tile starts in the output.
INLINE long start(const Convolution *job, long tile) {
  return tile / job->per_part + job->dilation * job->kept * (tile % job->per_part);
}

// Planes [3 size / 2 - 1, I, width] of tiles first..first + num.
INLINE void to_planes(const int size, const Convolution *job, const float *x, long first, long num, long width, float *planes) {
  const long d = job->dilation, T = job->T, before = (job->taps - 1) / 2 * d, apart = job->I * width;
  for (long i = 0; i < job->I; i++, x += T)
    for (long q = 0; q < width; q += LANES) {
      float in[LONGEST][LANES];
      for (long lane = 0; lane < LANES; lane++) {
        const long at = first + q + lane < first + num ? start(job, first + q + lane) - before : T;
        if (at >= 0 && at + (size - 1) * d < T)
          for (int j = 0; j < size; j++) in[j][lane] = x[at + j * d];
        else
          for (int j = 0; j < size; j++) in[j][lane] = at + j * d >= 0 && at + j * d < T ? x[at + j * d] : 0;
      }
      vec s[LONGEST], re[LONGEST / 2 + 1], im[LONGEST / 2 + 1];
      for (int j = 0; j < size; j++) s[j] = load(in[j]);
      size == 8 ? forward8(s, 1, re, im) : size == 16 ? forward16(s, 1, re, im) : forward32(s, 1, re, im);
      float *out = planes + i * width + q;
      store(out, re[0]);
      store(out + apart, re[size / 2]);
      for (int j = 1; j < size / 2; j++) {
        store(out + (3 * j - 1) * apart, re[j] + im[j]);
        store(out + 3 * j * apart, re[j]);
        store(out + (3 * j + 1) * apart, im[j]);
      }
    }
}

// y[r, q] (+)= sum over i of weight[i, r] x[i, q] for ROWS rows and n vectors of columns.
INLINE void product(const int n, const float *weight, const float *x, long I, long width, float *y, int more) {
  vec sum[ROWS][3] = {{{0}}};
  for (long i = 0; i < I; i++, weight += ROWS, x += width) {
    vec at[3];
#pragma GCC unroll 3
    for (int k = 0; k < n; k++) at[k] = load(x + k * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
      for (int k = 0; k < n; k++) sum[r][k] += weight[r] * at[k];
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
    for (int k = 0; k < n; k++) store(y + r * width + k * LANES, more ? load(y + r * width + k * LANES) + sum[r][k] : sum[r][k]);
}

// All columns of ROWS rows.
static void products(const Convolution *job, const float *weight, const float *x, long width, float *y) {
  for (long i = 0; i < job->I; i += DEPTH) {
    const long deep = smaller(DEPTH, job->I - i);
    const float *w = weight + i * ROWS, *from = x + i * width;
    for (long q = 0, n; q < width; q += n * LANES) {
      const long left = (width - q) / LANES;
      n = left == 4 ? 2 : smaller(left, 3);
      if (n == 3)
        product(3, w, from + q, deep, width, y + q, i > 0);
      else if (n == 2)
        product(2, w, from + q, deep, width, y + q, i > 0);
      else
        product(1, w, from + q, deep, width, y + q, i > 0);
    }
  }
}

// Samples of output channel o from its planes, `apart` floats from each other.
INLINE void to_samples(const int size, const Convolution *job, long b, long o, long first, long num, const float *planes, long apart) {
  const long d = job->dilation, T = job->T, row = (b * job->O + o) * T;
  const float bias = job->bias ? job->bias[o] : 0;
  float *y = job->y + row;
  for (long q = 0; q < num; q += LANES) {
    vec re[LONGEST / 2 + 1], im[LONGEST / 2 + 1], s[LONGEST];
    const float *in = planes + q;
    re[0] = load(in), re[size / 2] = load(in + apart);
    im[0] = im[size / 2] = (vec){0};
    for (int j = 1; j < size / 2; j++) {
      const vec k = load(in + (3 * j - 1) * apart);
      im[j] = k + load(in + 3 * j * apart);
      re[j] = k - load(in + (3 * j + 1) * apart);
    }
    size == 8 ? back8(re, im, s, 1) : size == 16 ? back16(re, im, s, 1) : back32(re, im, s, 1);
    float out[LONGEST][LANES];
    for (int j = 0; j < size; j++) store(out[j], s[j] + bias);
    const long lanes = smaller(LANES, num - q);
    for (long lane = 0; lane < lanes; lane++) {
      const long at = start(job, first + q + lane), kept = smaller(job->kept, cover(T - at, d));
      if (job->plus)
        for (long j = 0; j < kept; j++) y[at + j * d] = out[j][lane] + job->plus[row + at + j * d];
      else
        for (long j = 0; j < kept; j++) y[at + j * d] = out[j][lane];
    }
  }
}

INLINE void piece(const int size, const Convolution *job, long i, float *in, float *out) {
  const long b = i / job->num_slices / job->num_chunks, first = i / job->num_slices % job->num_chunks * job->chunk;
  const long num = smaller(job->chunk, job->dilation * job->per_part - first), width = cover(num, LANES) * LANES;
  const long padded = cover(job->O, ROWS) * ROWS, top = i % job->num_slices * job->slice, bottom = smaller(top + job->slice, padded);
  if (num <= 0) return;
  to_planes(size, job, job->x + b * job->I * job->T, first, num, width, in);
  for (long plane = 0; plane < 3 * size / 2 - 1; plane++)
    for (long o = top; o < bottom; o += ROWS)
      products(job, job->weight + (plane * padded + o) * job->I, in + plane * job->I * width, width,
               out + (plane * job->slice + o - top) * width);
  for (long o = top; o < smaller(bottom, job->O); o++)
    to_samples(size, job, b, o, first, num, out + (o - top) * width, job->slice * width);
}

static void convolution_work(void *data) {
  Convolution *job = data;
  const long room = (3 * job->size / 2 - 1) * job->chunk, total = job->B * job->num_chunks * job->num_slices;
  float *in = aligned_alloc(64, (size_t)(room * (job->I + job->slice)) * sizeof(float)), *out = in + room * job->I;
  if (!in) {
    job->failed = 1;
    return;
  }
  for (long i; (i = take(&job->next)) < total;)
    if (job->size == 8)
      piece(8, job, i, in, out);
    else if (job->size == 16)
      piece(16, job, i, in, out);
    else
      piece(32, job, i, in, out);
  free(in);
}

typedef struct {
  const float *weight;
  const double *table;
  float *out;
  long O, I, taps, planes, next;
} Packing;

static void packing_work(void *data) {
  Packing *job = data;
  const long groups = cover(job->O, ROWS), taps = job->taps;
  for (long group; (group = take(&job->next)) < groups;)
    for (long i = 0; i < job->I; i++) {
      double in[LONGEST][ROWS];
      for (long r = 0, o = group * ROWS; r < ROWS; r++, o++)
        for (long k = 0; k < taps; k++) in[k][r] = o < job->O ? job->weight[(o * job->I + i) * taps + k] : 0;
      for (long plane = 0; plane < job->planes; plane++) {
        double sum[ROWS] = {0};
        for (long k = 0; k < taps; k++)
          for (int r = 0; r < ROWS; r++) sum[r] += job->table[plane * taps + k] * in[k][r];
        float *out = job->out + ((plane * groups + group) * job->I + i) * ROWS;
        for (int r = 0; r < ROWS; r++) out[r] = (float)sum[r];
      }
    }
}

// out [planes, O / ROWS, I, ROWS] = table [planes, taps] times weight [O, I, taps], rows beyond O being zero.
void pack(const float *weight, const double *table, float *out, long O, long I, long taps, long planes, int num_threads) {
  Packing job = {weight, table, out, O, I, taps, planes, 0};
  run(packing_work, &job, num_threads);
}

// x [B, I, T]; weight [3 size / 2 - 1, O / ROWS, I, ROWS], see `pack`; bias [O] or null; plus, y [B, O, T], plus may be null.
// Returns whether there was memory for it.
int same_convolution(const float *x, const float *weight, const float *bias, const float *plus, float *y, long B, long I, long O,
                     long T, long taps, long dilation, long size, int num_threads) {
  Convolution job = {.x = x, .weight = weight, .bias = bias, .plus = plus, .y = y, .B = B, .I = I, .O = O, .T = T, .taps = taps,
                     .dilation = dilation, .size = size, .kept = size - taps + 1};
  job.per_part = cover(cover(T, dilation), job.kept);
  const long tiles = dilation * job.per_part, padded = cover(O, ROWS);
  job.num_chunks = cover(tiles, TILES);
  if (job.num_chunks > 1) job.num_chunks = cover(job.num_chunks, num_threads) * num_threads;
  job.chunk = cover(cover(tiles, job.num_chunks), LANES) * LANES;
  job.num_slices = B * job.num_chunks < num_threads ? smaller(padded, cover(num_threads, B * job.num_chunks)) : 1;
  job.slice = cover(padded, job.num_slices) * ROWS;
  run(convolution_work, &job, num_threads);
  return !job.failed;
}
