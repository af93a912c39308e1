// Few rows times a weight, bound by the reading of it: each weight is read once, in several streams a thread, since a core
// waits for no more than some lines of each.

#include <float.h>

#include "vector.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

enum { BLOCK = 64, VECS = BLOCK / LANES, TOGETHER = LANES > 8 ? 3 : 1, ROWS_READ = 8, GROUP = 32, SERIAL = 1 << 18 };
// BLOCK outputs lie together; TOGETHER rows of x are multiplied while a weight is in registers; ROWS_READ rows of a plain
// weight are read at once; products over SERIAL bytes are worth a second thread.

INLINE words load_words(const void *p) {
  words v;
  memcpy(&v, p, sizeof v);
  return v;
}

typedef struct {
  const void *w;         // see each kind
  const float *scale;    // [O], of 8 bits
  const int32_t *sums;   // [O], of 8 bits: the sum of an output's weights
  const void *bias;      // [O] in the dtype of out, or null
  const void *x;         // as prepared for the kind
  const float *steps;    // [N], of x in bytes
  const float *group_sums;  // [N, G], of 4 bits: the sum of a group of x, in steps
  void *out;             // [N, O]
  long N, O, C, group, stride, next;  // stride: of a row of x as prepared
  int half, half_w, wide;  // out is bfloat16; weights are; x was rounded to two bytes
} Few;

INLINE void emit(const Few *job, long n, long o, long num, const float *y) {
  for (long i = 0; i < num; i++) {
    float v = y[i];
    if (job->half) {
      if (job->bias) v += from_half(((const uint16_t *)job->bias)[o + i]);
      ((uint16_t *)job->out)[n * job->O + o + i] = to_half(v);
    } else {
      if (job->bias) v += ((const float *)job->bias)[o + i];
      ((float *)job->out)[n * job->O + o + i] = v;
    }
  }
}

// Plain weights [O, C] of floats; x float32 [N, stride], and for bfloat16 the even columns of 2 LANES before the odd ones.
INLINE void plain_rows(const Few *job, long o, long count, long n, int rows, int half) {
  const long C = job->C, width = half ? 2 * LANES : LANES, whole = C / width * width, size = half ? 2 : 4;
  vec acc[TOGETHER][ROWS_READ];
  for (int m = 0; m < rows; m++)
    for (int r = 0; r < ROWS_READ; r++) acc[m][r] = (vec){0};
  const char *w[ROWS_READ];
  for (int r = 0; r < ROWS_READ; r++) w[r] = (const char *)job->w + (o + (r < count ? r : count - 1)) * C * size;
  const float *x = (const float *)job->x + n * job->stride;
  for (long c = 0; c < whole; c += width) {
    _Pragma("GCC unroll 8") for (int r = 0; r < ROWS_READ; r++) {
      if (half) {
        const words u = load_words(w[r] + 2 * c);
        const vec even = (vec)(u << 16), odd = (vec)(u & 0xffff0000);
        for (int m = 0; m < rows; m++) {
          acc[m][r] += even * load(x + m * job->stride + c);
          acc[m][r] += odd * load(x + m * job->stride + c + LANES);
        }
      } else {
        const vec v = load((const float *)(w[r] + 4 * c));
        for (int m = 0; m < rows; m++) acc[m][r] += v * load(x + m * job->stride + c);
      }
    }
  }
  if (whole < C) {  // what is left of the columns; x has zeros behind its end
    for (int r = 0; r < ROWS_READ; r++) {
      uint32_t rest[LANES] = {0};
      memcpy(rest, w[r] + size * whole, (size_t)(size * (C - whole)));
      const words u = load_words(rest);
      for (int m = 0; m < rows; m++) {
        const float *end = x + m * job->stride + whole;
        if (half)
          acc[m][r] += (vec)(u << 16) * load(end) + (vec)(u & 0xffff0000) * load(end + LANES);
        else
          acc[m][r] += (vec)u * load(end);
      }
    }
  }
  for (int m = 0; m < rows; m++) {
    float y[ROWS_READ];
    for (int r = 0; r < ROWS_READ; r++) y[r] = sum(acc[m][r]);
    emit(job, n + m, o, count, y);
  }
}

// Floats in blocks, [O / BLOCK, C / pair, BLOCK, pair], pair being 1 for float32 and 2 for bfloat16; x float32.
enum { STREAMS = 4, AHEAD = 5120 };  // bytes that nibbles are asked for ahead
INLINE void block_rows(const Few *job, long o, long n, int rows, int half) {
  const long C = job->C, depth = half ? cover(C, 2) : C, quarter = cover(depth, STREAMS), line = BLOCK * 4;
  vec acc[TOGETHER][VECS];
  for (int m = 0; m < rows; m++)
    for (int i = 0; i < VECS; i++) acc[m][i] = (vec){0};
  const char *w = (const char *)job->w + o / BLOCK * depth * line;
  const float *x = (const float *)job->x + n * job->stride;
  for (long at = 0; at < quarter; at++) {
    _Pragma("GCC unroll 4") for (int s = 0; s < STREAMS; s++) {
      const long c = s * quarter + at;
      if (c >= depth) break;
      _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) {
        const words u = load_words(w + c * line + 4 * LANES * i);
        for (int m = 0; m < rows; m++) {
          const float *xs = x + m * job->stride;
          if (half) {
            acc[m][i] += (vec)(u << 16) * xs[2 * c];
            acc[m][i] += (vec)(u & 0xffff0000) * xs[2 * c + 1];
          } else {
            acc[m][i] += (vec)u * xs[c];
          }
        }
      }
    }
  }
  for (int m = 0; m < rows; m++) emit(job, n + m, o, smaller(BLOCK, job->O - o), (const float *)acc[m]);
}

#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__)) || defined(__ARM_FEATURE_DOTPROD)
#define DOTS 1
// acc + the products of four unsigned and four signed bytes in each lane; u is at most 15 where there is no VNNI.
INLINE mask dot(mask acc, words u, words s) {
#if defined(__AVX512VNNI__)
  return (mask)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s);
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
  return (mask)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)u, (__m256i)s);
#elif defined(__AVX512BW__)
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)u, (__m512i)s);
  return acc + (mask)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#elif defined(__AVX2__) && !defined(__AVX512F__)
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)u, (__m256i)s);
  return acc + (mask)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  return (mask)vdotq_s32((int32x4_t)acc, (int8x16_t)u, (int8x16_t)s);
#endif
}
INLINE words four(const uint8_t *p) {
  uint32_t u;
  memcpy(&u, p, 4);
  return u - (words){0};
}
#endif

#if defined(DOTS) && (defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__)))
#define BYTES 1
// Signed bytes in blocks, [O / BLOCK, C / 4, BLOCK, 4]; x unsigned bytes around 128, one row, or two, of which the second
// is in 254ths.
INLINE void byte_rows(const Few *job, long o, long n, int rows, int wide) {
  const long depth = job->stride / 4, quarter = cover(depth, STREAMS), line = BLOCK * 4;
  mask acc[TOGETHER][2][VECS];
  for (int m = 0; m < rows; m++)
    for (int i = 0; i < VECS; i++) acc[m][0][i] = acc[m][1][i] = (mask){0};
  const char *w = (const char *)job->w + o / BLOCK * depth * line;
  const uint8_t *x = (const uint8_t *)job->x + n * job->stride, *rest = x + job->N * job->stride;
  for (long at = 0; at < quarter; at++) {
    _Pragma("GCC unroll 4") for (int s = 0; s < STREAMS; s++) {
      const long c = s * quarter + at;
      if (c >= depth) break;
      words u[VECS];
      _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) u[i] = load_words(w + c * line + 4 * LANES * i);
      for (int m = 0; m < rows; m++) {
        const words first = four(x + m * job->stride + 4 * c);
        _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) acc[m][0][i] = dot(acc[m][0][i], first, u[i]);
        if (wide) {
          const words second = four(rest + m * job->stride + 4 * c);
          _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) acc[m][1][i] = dot(acc[m][1][i], second, u[i]);
        }
      }
    }
  }
  const long num = smaller(BLOCK, job->O - o);
  for (int m = 0; m < rows; m++) {
    float y[BLOCK];
    for (int i = 0; i < num; i++) {
      const int lane = i % LANES, v = i / LANES;
      const int32_t middle = 128 * job->sums[o + i];
      float value = (float)(acc[m][0][v][lane] - middle);
      if (wide) value += (float)(acc[m][1][v][lane] - middle) * (1.f / 254);
      y[i] = value * job->scale[o + i] * job->steps[n + m];
    }
    emit(job, n + m, o, num, y);
  }
}
#endif

#if defined(DOTS)
// Four bits in blocks: [O / BLOCK, G, {[group / 32, 4, BLOCK, 4] bytes, scale and zero [2, BLOCK] in bfloat16}]; the low
// half of byte [i, j, o, k] is input 32 i + 4 j + k, the high half the one 16 later. x signed bytes as above.
INLINE void nibble_rows(const Few *job, long o, long n, int rows) {
  const long G = cover(job->C, job->group), parts = job->group / GROUP, size = parts * GROUP / 2 * BLOCK + 4 * BLOCK;
  vec acc[TOGETHER][VECS];
  for (int m = 0; m < rows; m++)
    for (int i = 0; i < VECS; i++) acc[m][i] = (vec){0};
  const char *w = (const char *)job->w + o / BLOCK * G * size;
  const uint8_t *x = (const uint8_t *)job->x + n * job->stride, *rest = x + job->N * job->stride;
  const long quarter = cover(G, STREAMS);
  for (long turn = 0; turn < STREAMS * quarter; turn++) {
    const long g = turn % STREAMS * quarter + turn / STREAMS;
    if (g >= G) continue;
    const char *line = w + g * size;
    mask dots[TOGETHER][2][VECS];
    for (int m = 0; m < rows; m++)
      for (int i = 0; i < VECS; i++) dots[m][0][i] = dots[m][1][i] = (mask){0};
    for (long p = 0; p < parts; p++) {
      const long c = g * job->group + p * GROUP;
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++, line += 4 * BLOCK) {
        for (int ahead = 0; ahead < 4 * BLOCK; ahead += 64) __builtin_prefetch(line + AHEAD + ahead);
        _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) {
          const words u = load_words(line + 4 * LANES * i), low = u & 0x0f0f0f0f, high = (u >> 4) & 0x0f0f0f0f;
          for (int m = 0; m < rows; m++) {
            const long at = m * job->stride + c + 4 * j;
            dots[m][0][i] = dot(dot(dots[m][0][i], low, four(x + at)), high, four(x + at + 16));
            dots[m][1][i] = dot(dot(dots[m][1][i], low, four(rest + at)), high, four(rest + at + 16));
          }
        }
      }
    }
    _Pragma("GCC unroll 16") for (int i = 0; i < VECS; i++) {
      const vec scale = load_half((const uint16_t *)line + LANES * i), zero = load_half((const uint16_t *)line + BLOCK + LANES * i);
      for (int m = 0; m < rows; m++) {
        const float sum = job->group_sums[(n + m) * G + g];
        const vec values = __builtin_convertvector(dots[m][0][i], vec) - 8 * sum;
        acc[m][i] += scale * (__builtin_convertvector(dots[m][1][i], vec) * (1.f / 254) + values);
        acc[m][i] += zero * sum;
      }
    }
  }
  for (int m = 0; m < rows; m++) {
    for (int i = 0; i < VECS; i++) acc[m][i] *= job->steps[n + m];
    emit(job, n + m, o, smaller(BLOCK, job->O - o), (const float *)acc[m]);
  }
}
#endif

// How many rows of x from n on there are registers for.
INLINE int rows_at(const Few *job, long n) { return (int)smaller(TOGETHER, job->N - n); }

// KIND(rows) with a number that is known to the compiler.
#define BY_ROWS(rows, KIND)               \
  switch (rows) {                         \
    case 1: KIND(1); break;               \
    case 2: KIND(TOGETHER < 2 ? 1 : 2); break; \
    default: KIND(TOGETHER);              \
  }

static void plain_work(void *data) {
  Few *job = data;
  for (long o; (o = ROWS_READ * take(&job->next)) < job->O;)
    for (long n = 0, rows; n < job->N; n += rows) {
      rows = rows_at(job, n);
      const long count = smaller(ROWS_READ, job->O - o);
#define KIND(R) job->half_w ? plain_rows(job, o, count, n, R, 1) : plain_rows(job, o, count, n, R, 0)
      BY_ROWS(rows, KIND)
#undef KIND
    }
}

static void block_work(void *data) {
  Few *job = data;
  for (long o; (o = BLOCK * take(&job->next)) < job->O;)
    for (long n = 0, rows; n < job->N; n += rows) {
      rows = rows_at(job, n);
#define KIND(R) job->half_w ? block_rows(job, o, n, R, 1) : block_rows(job, o, n, R, 0)
      BY_ROWS(rows, KIND)
#undef KIND
    }
}

// x [N, x_stride], of which C are meant, as float32 [N, stride], zeros behind; for plain bfloat16 weights even columns before odd ones.
static void spread(const Few *job, const void *x, long x_stride, int half_x, float *out, int split) {
  for (long n = 0; n < job->N; n++) {
    float *row = out + n * job->stride;
    memset(row, 0, (size_t)job->stride * sizeof *row);
    for (long c = 0; c < job->C; c++) {
      const long in = c % (2 * LANES), to = split ? c - in + in % 2 * LANES + in / 2 : c;
      row[to] = half_x ? from_half(((const uint16_t *)x)[n * x_stride + c]) : ((const float *)x)[n * x_stride + c];
    }
  }
}

// x [N, x_stride], of which C are meant, and out [N, O] in bfloat16 or float32; w [O, C] as it is, or in blocks, in either.
int few_floats(const void *w, const void *bias, const void *x, void *out, long N, long O, long C, long x_stride, int half_w,
               int half_x, int blocks, int num_threads) {
  Few job = {.w = w, .bias = bias, .out = out, .N = N, .O = O, .C = C, .half_w = half_w, .half = half_x};
  job.stride = cover(C, 2 * LANES) * 2 * LANES;
  float *wide = malloc((size_t)(N * job.stride) * sizeof *wide);
  if (!wide) return 0;
  spread(&job, x, x_stride, half_x, wide, half_w && !blocks);
  job.x = wide;
  run(blocks ? block_work : plain_work, &job, O * C * (half_w ? 2 : 4) < SERIAL ? 1 : num_threads);
  free(wide);
  return 1;
}

#if defined(BYTES)
static void byte_work(void *data) {
  Few *job = data;
  for (long o; (o = BLOCK * take(&job->next)) < job->O;)
    for (long n = 0, rows; n < job->N; n += rows) {
      rows = rows_at(job, n);
#define KIND(R) job->wide ? byte_rows(job, o, n, R, 1) : byte_rows(job, o, n, R, 0)
      BY_ROWS(rows, KIND)
#undef KIND
    }
}
#endif

#if defined(DOTS)
static void nibble_work(void *data) {
  Few *job = data;
  for (long o; (o = BLOCK * take(&job->next)) < job->O;)
    for (long n = 0, rows; n < job->N; n += rows) {
      rows = rows_at(job, n);
#define KIND(R) nibble_rows(job, o, n, R)
      BY_ROWS(rows, KIND)
#undef KIND
    }
}
#endif

// Whether this CPU multiplies bytes, and nibbles.
int few_knows(int nibbles) {
  (void)nibbles;
#if defined(BYTES)
  return 1;
#elif defined(DOTS)
  return nibbles;
#else
  return 0;
#endif
}

// As few_floats, with weights of 8 bits in blocks whose inputs are filled up to stride.
int few_bytes(const void *w, const float *scale, const int32_t *sums, const void *bias, const void *x, void *out, long N, long O,
              long C, long stride, int half_x, int wide, int num_threads) {
#if defined(BYTES)
  const long rows = wide ? 2 * N : N;
  uint8_t *bytes = malloc((size_t)(rows * stride));
  float *steps = malloc((size_t)N * sizeof *steps);
  const int fits = bytes && steps;
  if (fits) {
    for (long n = 0; n < N; n++) {
      uint8_t *coarse = bytes + n * stride, *rest = coarse + N * stride;
      steps[n] = quantise_row((const char *)x + n * C * (half_x ? 2 : 4), half_x, C, coarse, wide ? rest : NULL);
      memset(coarse + C, 128, (size_t)(stride - C));
      if (wide) memset(rest + C, 128, (size_t)(stride - C));
    }
    Few job = {.w = w, .scale = scale, .sums = sums, .bias = bias, .x = bytes, .steps = steps, .out = out, .N = N, .O = O,
               .C = C, .stride = stride, .half = half_x, .wide = wide};
    run(byte_work, &job, O * C < SERIAL ? 1 : num_threads);
  }
  free(bytes), free(steps);
  return fits;
#else
  (void)w, (void)scale, (void)sums, (void)bias, (void)x, (void)out, (void)N, (void)O, (void)C, (void)stride, (void)half_x;
  (void)wide, (void)num_threads;
  return 0;
#endif
}

// As few_floats, with weights of 4 bits in blocks.
int few_nibbles(const void *w, const void *bias, const void *x, void *out, long N, long O, long C, long group, int half_x,
                int num_threads) {
#if defined(DOTS)
  const long G = cover(C, group), stride = G * group;
  uint8_t *bytes = malloc((size_t)(2 * N * stride));
  float *steps = malloc((size_t)(N * (1 + G)) * sizeof *steps), *group_sums = steps + N;
  const int fits = bytes && steps;
  if (fits) {
    for (long n = 0; n < N; n++) {
      uint8_t *coarse = bytes + n * stride, *rest = coarse + N * stride;
      steps[n] = quantise_row((const char *)x + n * C * (half_x ? 2 : 4), half_x, C, coarse, rest);
      memset(coarse + C, 128, (size_t)(stride - C));
      memset(rest + C, 128, (size_t)(stride - C));
      for (long g = 0; g < G; g++) {
        int first = 0, second = 0;
        for (long c = g * group; c < (g + 1) * group; c++) {
          coarse[c] ^= 128, rest[c] ^= 128;  // signed
          first += (int8_t)coarse[c], second += (int8_t)rest[c];
        }
        group_sums[n * G + g] = (float)first + (float)second * (1.f / 254);
      }
    }
    Few job = {.w = w, .bias = bias, .x = bytes, .steps = steps, .group_sums = group_sums, .out = out, .N = N, .O = O, .C = C,
               .group = group, .stride = stride, .half = half_x};
    run(nibble_work, &job, O * C / 2 < SERIAL ? 1 : num_threads);
  }
  free(bytes), free(steps);
  return fits;
#else
  (void)w, (void)bias, (void)x, (void)out, (void)N, (void)O, (void)C, (void)group, (void)half_x, (void)num_threads;
  return 0;
#endif
}

typedef struct {
  const uint8_t *pairs;
  const uint16_t *scale, *zero;
  uint8_t *blocks;
  long O, C, group, next;
} Pack;

INLINE long nibble_size(long group) { return group / 2 * BLOCK + 4 * BLOCK; }

static void pack_work(void *data) {
  Pack *job = data;
  const long G = job->C / job->group, size = nibble_size(job->group);
  for (long o; (o = BLOCK * take(&job->next)) < job->O;)
    for (long g = 0; g < G; g++) {
      uint8_t *line = job->blocks + (o / BLOCK * G + g) * size;
      memset(line, 0, (size_t)size);
      uint16_t *scale = (uint16_t *)(line + job->group / 2 * BLOCK), *zero = scale + BLOCK;
      for (long i = 0; i < smaller(BLOCK, job->O - o); i++) {
        const uint8_t *pairs = job->pairs + (o + i) * job->C / 2 + g * job->group / 2;
        for (long p = 0; p < job->group / GROUP; p++)
          for (long c = 0; c < GROUP / 2; c += 2) {
            const uint8_t low = pairs[(p * GROUP + c) / 2], high = pairs[(p * GROUP + c + GROUP / 2) / 2];
            uint8_t *to = line + (p * 4 + c / 4) * 4 * BLOCK + 4 * i + c % 4;
            to[0] = (uint8_t)((low & 15) | (high & 15) << 4);
            to[1] = (uint8_t)(low >> 4 | (high & 0xf0));
          }
        scale[i] = job->scale[(o + i) * G + g], zero[i] = job->zero[(o + i) * G + g];
      }
    }
}

// pairs [O, C / 2], the even input in the low half; scale and zero [O, G] in bfloat16; C is whole groups.
void pack_nibbles(const uint8_t *pairs, const uint16_t *scale, const uint16_t *zero, uint8_t *blocks, long O, long C, long group,
                  int num_threads) {
  Pack job = {pairs, scale, zero, blocks, O, C, group, 0};
  run(pack_work, &job, num_threads);
}

typedef struct {
  const uint8_t *blocks;
  void *out;
  long first, num, C, group, next;
  int half;
} Unpack;

static void unpack_work(void *data) {
  Unpack *job = data;
  const long G = job->C / job->group, size = nibble_size(job->group), columns = job->num * BLOCK;
  for (long t; (t = take(&job->next)) < job->num * G;) {
    const long b = t % job->num, g = t / job->num;
    const uint8_t *line = job->blocks + ((job->first + b) * G + g) * size;
    const uint16_t *steps = (const uint16_t *)(line + job->group / 2 * BLOCK);
    for (int i = 0; i < VECS; i++) {
      const vec scale = load_half(steps + LANES * i), zero = load_half(steps + BLOCK + LANES * i);
      for (long c = 0; c < job->group; c++) {
        const long in = c % GROUP, at = c / GROUP * 4 + in % 16 / 4;
        const words u = load_words(line + at * 4 * BLOCK + 4 * LANES * i) >> (uint32_t)(8 * (in % 4) + 4 * (in / 16)) & 15;
        const vec v = (__builtin_convertvector((mask)u, vec) - 8) * scale + zero;
        const long to = (g * job->group + c) * columns + b * BLOCK + LANES * i;
        if (job->half) {
          store_half((uint16_t *)job->out + to, v);
        } else {
          store((float *)job->out + to, v);
        }
      }
    }
  }
}

// Blocks first to first + num as [C, num, BLOCK], in bfloat16 or float32.
void unpack_nibbles(const uint8_t *blocks, void *out, long first, long num, long C, long group, int half, int num_threads) {
  Unpack job = {blocks, out, first, num, C, group, 0, half};
  run(unpack_work, &job, num_threads);
}
