// Training kernels of the vocoder: the activation of BigVGAN in one pass over each row, and convolutions of few channels
// row by row, which oneDNN pads to 16. All tensors are float32 on a CPU.

#include <torch/extension.h>

#include <cmath>
#include <cstring>
#include <tuple>
#include <vector>

using torch::Tensor;

static const int EDGE = 16;  // floats around a row; filters reach 8 beyond it

// A row of T floats with room on both sides.
struct Row {
  std::vector<float> room;
  float* at;
  explicit Row(int T) : room(T + 2 * EDGE), at(room.data() + EDGE) {}
};

static void extend(float* row, int T, float left, float right) {
  for (int i = 1; i <= EDGE; i++) {
    row[-i] = left;
    row[T - 1 + i] = right;
  }
}

// The even and the odd samples at twice the rate.
static void upsample(const float* __restrict x, const float* f, int T, float* __restrict even, float* __restrict odd) {
  for (int t = 0; t < T; t++) {
    even[t] = 2 * (f[11] * x[t - 3] + f[9] * x[t - 2] + f[7] * x[t - 1] + f[5] * x[t] + f[3] * x[t + 1] + f[1] * x[t + 2]);
    odd[t] = 2 * (f[10] * x[t - 2] + f[8] * x[t - 1] + f[6] * x[t] + f[4] * x[t + 1] + f[2] * x[t + 2] + f[0] * x[t + 3]);
  }
}

static void load_row(const float* x, int T, Row& row) {
  std::memcpy(row.at, x, T * sizeof(float));
  extend(row.at, T, x[0], x[T - 1]);
}

// x + sin^2(a x) / b, written with the cosine of the double angle; a2 = 2 a, half = 1 / (2 b).
static void snake(float* __restrict x, int T, float a2, float half) {
  for (int t = 0; t < T; t++) x[t] += half * (1.f - cosf(a2 * x[t]));
}

// Turns the gradient g of snake(u) into that of u; adds up those of log a (divided by a / b) and of log b (by -half).
static void snake_back(float* __restrict g, const float* __restrict u, int T, float a2, float ratio, float& da, float& db) {
  float sum_a = 0, sum_b = 0;
  // two loops: sine and cosine of one angle in one loop become a scalar sincosf
  for (int t = 0; t < T; t++) sum_b += g[t] * (1.f - cosf(a2 * u[t]));
  for (int t = 0; t < T; t++) {
    const float s = sinf(a2 * u[t]);
    sum_a += g[t] * u[t] * s;
    g[t] *= 1.f + ratio * s;
  }
  da += sum_a;
  db += sum_b;
}

Tensor snake_forward(Tensor x, Tensor alpha, Tensor beta, Tensor taps) {
  x = x.contiguous();
  const int B = x.size(0), C = x.size(1), T = x.size(2);
  Tensor y = torch::empty_like(x);
  const float *f = taps.data_ptr<float>(), *log_a = alpha.data_ptr<float>(), *log_b = beta.data_ptr<float>();
  Row in(T), even(T), odd(T);
  for (int r = 0; r < B * C; r++) {
    const int c = r % C;
    const float a2 = 2 * expf(log_a[c]), half = 0.5f / (expf(log_b[c]) + 1e-9f);
    load_row(x.data_ptr<float>() + (size_t)r * T, T, in);
    upsample(in.at, f, T, even.at, odd.at);
    snake(even.at, T, a2, half);
    snake(odd.at, T, a2, half);
    const float left = even.at[0], right = odd.at[T - 1];
    extend(even.at, T, left, right);
    extend(odd.at, T, left, right);
    const float *e = even.at, *o = odd.at;
    float* __restrict out = y.data_ptr<float>() + (size_t)r * T;
    for (int t = 0; t < T; t++)
      out[t] = f[0] * o[t - 3] + f[2] * o[t - 2] + f[4] * o[t - 1] + f[6] * o[t] + f[8] * o[t + 1] + f[10] * o[t + 2] +
               f[1] * e[t - 2] + f[3] * e[t - 1] + f[5] * e[t] + f[7] * e[t + 1] + f[9] * e[t + 2] + f[11] * e[t + 3];
  }
  return y;
}

std::tuple<Tensor, Tensor, Tensor> snake_backward(Tensor grad, Tensor x, Tensor alpha, Tensor beta, Tensor taps) {
  grad = grad.contiguous();
  x = x.contiguous();
  const int B = x.size(0), C = x.size(1), T = x.size(2), REACH = 4;
  Tensor dx = torch::empty_like(x), da = torch::zeros_like(alpha), db = torch::zeros_like(beta);
  const float *f = taps.data_ptr<float>(), *log_a = alpha.data_ptr<float>(), *log_b = beta.data_ptr<float>();
  Row in(T), even(T), odd(T), g(T), ge(T), go(T);
  for (int r = 0; r < B * C; r++) {
    const int c = r % C;
    const float a = expf(log_a[c]), b = expf(log_b[c]) + 1e-9f, half = 0.5f / b, ratio = a / b;
    load_row(x.data_ptr<float>() + (size_t)r * T, T, in);
    upsample(in.at, f, T, even.at, odd.at);

    std::memcpy(g.at, grad.data_ptr<float>() + (size_t)r * T, T * sizeof(float));
    extend(g.at, T, 0, 0);
    const float* p = g.at;
    float *e = ge.at, *o = go.at;
    for (int t = -REACH; t < T + REACH; t++) {
      e[t] = f[1] * p[t + 2] + f[3] * p[t + 1] + f[5] * p[t] + f[7] * p[t - 1] + f[9] * p[t - 2] + f[11] * p[t - 3];
      o[t] = f[0] * p[t + 3] + f[2] * p[t + 2] + f[4] * p[t + 1] + f[6] * p[t] + f[8] * p[t - 1] + f[10] * p[t - 2];
    }
    for (int i = 1; i <= REACH; i++) {  // the replicated edges
      e[0] += e[-i] + o[-i];
      o[T - 1] += e[T - 1 + i] + o[T - 1 + i];
    }

    float sum_a = 0, sum_b = 0;
    snake_back(e, even.at, T, 2 * a, ratio, sum_a, sum_b);
    snake_back(o, odd.at, T, 2 * a, ratio, sum_a, sum_b);
    da.data_ptr<float>()[c] += ratio * sum_a;
    db.data_ptr<float>()[c] -= half * sum_b * (b - 1e-9f) / b;

    extend(e, T, 0, 0);
    extend(o, T, 0, 0);
    float* __restrict d = g.at;
    for (int t = -REACH; t < T + REACH; t++)
      d[t] = 2 * (f[11] * e[t + 3] + f[9] * e[t + 2] + f[7] * e[t + 1] + f[5] * e[t] + f[3] * e[t - 1] + f[1] * e[t - 2] +
                  f[10] * o[t + 2] + f[8] * o[t + 1] + f[6] * o[t] + f[4] * o[t - 1] + f[2] * o[t - 2] + f[0] * o[t - 3]);
    for (int i = 1; i <= REACH; i++) {
      d[0] += d[-i];
      d[T - 1] += d[T - 1 + i];
    }
    std::memcpy(dx.data_ptr<float>() + (size_t)r * T, d, T * sizeof(float));
  }
  return {dx, da, db};
}

// Weights [O, I, K]; the length is kept. A tile of time stays in the cache.
Tensor conv_forward(Tensor x, Tensor weight, Tensor bias, int64_t dilation) {
  weight = weight.contiguous();
  const int B = x.size(0), I = x.size(1), T = x.size(2), O = weight.size(0), K = weight.size(2), d = dilation, TILE = 256;
  const int edge = (K - 1) * d / 2, N = T + 2 * edge;
  const Tensor padded = torch::constant_pad_nd(x, {edge, edge}).contiguous();
  Tensor y = torch::empty({B, O, T});
  const float *w = weight.data_ptr<float>(), *start = bias.numel() ? bias.data_ptr<float>() : nullptr;
  for (int b = 0; b < B; b++)
    for (int t0 = 0; t0 < T; t0 += TILE) {
      const int n = std::min(TILE, T - t0);
      const float* in = padded.data_ptr<float>() + (size_t)b * I * N + t0;
      for (int o = 0; o < O; o++) {
        float sum[TILE];
        for (int t = 0; t < n; t++) sum[t] = start ? start[o] : 0.f;
        for (int i = 0; i < I; i++) {
          const float *q = in + (size_t)i * N, *v = w + ((size_t)o * I + i) * K;
          if (K == 3)
            for (int t = 0; t < n; t++) sum[t] += v[0] * q[t] + v[1] * q[t + d] + v[2] * q[t + 2 * d];
          else
            for (int k = 0; k < K; k++)
              for (int t = 0; t < n; t++) sum[t] += v[k] * q[t + k * d];
        }
        std::memcpy(y.data_ptr<float>() + ((size_t)b * O + o) * T + t0, sum, n * sizeof(float));
      }
    }
  return y;
}

std::tuple<Tensor, Tensor> conv_backward(Tensor grad, Tensor x, Tensor weight, int64_t dilation) {
  grad = grad.contiguous();
  const int B = x.size(0), I = x.size(1), T = x.size(2), O = weight.size(0), K = weight.size(2), d = dilation, TILE = 512;
  const int edge = (K - 1) * d / 2, N = T + 2 * edge;
  Tensor dx = conv_forward(grad, weight.flip(2).transpose(0, 1), torch::empty({0}), dilation);
  const Tensor padded = torch::constant_pad_nd(x, {edge, edge}).contiguous();
  Tensor dw = torch::zeros({O, I, K});
  for (int b = 0; b < B; b++)
    for (int t0 = 0; t0 < T; t0 += TILE) {
      const int n = std::min(TILE, T - t0);
      for (int o = 0; o < O; o++) {
        const float* g = grad.data_ptr<float>() + ((size_t)b * O + o) * T + t0;
        for (int i = 0; i < I; i++) {
          const float* q = padded.data_ptr<float>() + ((size_t)b * I + i) * N + t0;
          float* v = dw.data_ptr<float>() + ((size_t)o * I + i) * K;
          if (K == 3) {
            float s0 = 0, s1 = 0, s2 = 0;
            for (int t = 0; t < n; t++) {
              s0 += g[t] * q[t];
              s1 += g[t] * q[t + d];
              s2 += g[t] * q[t + 2 * d];
            }
            v[0] += s0;
            v[1] += s1;
            v[2] += s2;
          } else {
            for (int k = 0; k < K; k++) {
              float s = 0;
              for (int t = 0; t < n; t++) s += g[t] * q[t + k * d];
              v[k] += s;
            }
          }
        }
      }
    }
  return {dx, dw};
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("snake_forward", &snake_forward);
  m.def("snake_backward", &snake_backward);
  m.def("conv_forward", &conv_forward);
  m.def("conv_backward", &conv_backward);
}
