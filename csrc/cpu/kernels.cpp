// One source for all instruction sets: compiled once for each, with KRYPTON_ISA the name of its namespace,
// KRYPTON_LANES the floats of a vector and KRYPTON_TILE the rows of a tile.
//
// Nothing here may be an inline function that another translation unit has too: the linker keeps one copy,
// perhaps the one for the wide machine. So no standard library but what is a macro or a builtin.
#include "cpu/kernels.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define UNROLL _Pragma("GCC unroll 16")

namespace krypton {
namespace KRYPTON_ISA {
namespace {

constexpr int kLanes = KRYPTON_LANES;
constexpr int kVectors = 2;  // of one row of a tile
constexpr int kPanel = kLanes * kVectors;
constexpr int kTile = KRYPTON_TILE;

typedef float Lanes __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

static_assert(kChannelStep % kLanes == 0, "a pixel is a whole number of vectors");

inline Lanes load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Unaligned*>(p) = v; }
// x - 0 is x, and so a load of its own; x + 0 is not (-0), and an addition costs Intel's cores half their
// speed.
inline Lanes splat(float x) { return x - Lanes{}; }
// NaN stays NaN, as in PyTorch.
inline Lanes clamp(Lanes x, Lanes low, Lanes high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// -- matrix product --------------------------------------------------------------------------------------

// `ahead`: the part of what is wanted next that this tile fetches, `lines` cache lines for every kStep sums.
constexpr int64_t kStep = 8;

template <int R, int V>
void tile(const Multiply& m, int64_t row, const float* ahead, int64_t lines) {
    Lanes sum[R][V];
    UNROLL for (int r = 0; r < R; ++r) { UNROLL for (int v = 0; v < V; ++v) sum[r][v] = Lanes{}; }
    const float* b = m.b;
    for (int64_t t = 0; t < m.taps; ++t) {
        const float* a[R];
        UNROLL for (int r = 0; r < R; ++r) a[r] = m.a[t * m.a_stride + row + r] + m.a_offset;
        for (int64_t k = 0; k < m.depth;) {
            for (int64_t i = 0; i < lines; ++i, ahead += 16) __builtin_prefetch(ahead, 0, 2);
            const int64_t end = k + kStep < m.depth ? k + kStep : m.depth;
            for (; k < end; ++k) {
                Lanes w[V];
                UNROLL for (int v = 0; v < V; ++v) w[v] = load(b + v * kLanes);
                b += kPanel;
                UNROLL for (int r = 0; r < R; ++r) {
                    const Lanes x = splat(a[r][k]);
                    UNROLL for (int v = 0; v < V; ++v) sum[r][v] += x * w[v];
                }
            }
        }
    }
    const Lanes low = splat(m.low), high = splat(m.high);
    UNROLL for (int r = 0; r < R; ++r) {
        float* c = m.c[row + r] + m.c_offset;
        // What was there is added last: a sum of sums is more exact than one long one.
        const float* start = m.bias ? m.bias : c;
        UNROLL for (int v = 0; v < V; ++v) {
            Lanes x = sum[r][v] + load(start + v * kLanes);
            if (m.residual) x += load(m.residual[row + r] + m.c_offset + v * kLanes);
            store(c + v * kLanes, clamp(x, low, high));
        }
    }
}

template <int R>
void tile_of(const Multiply& m, int64_t row, int64_t rows, bool narrow, const float* ahead, int64_t lines) {
    if (rows == R) {
        narrow ? tile<R, 1>(m, row, ahead, lines) : tile<R, kVectors>(m, row, ahead, lines);
    } else if constexpr (R > 1) {
        tile_of<R - 1>(m, row, rows, narrow, ahead, lines);
    }
}

// Products that are added up in one go. A sum of such sums is far more exact than one long one, and the
// weights of a piece stay in the first cache while all rows use them.
constexpr int64_t kLongestSum = 96;

void multiply_piece(const Multiply& m) {
    const bool narrow = m.columns <= kLanes;
    // Tiles of about one height: a last tile of one row would run at a fraction of the speed.
    const int64_t tiles = (m.rows + kTile - 1) / kTile;
    const int64_t steps = m.taps * ((m.depth + kStep - 1) / kStep);
    const int64_t all = m.next ? m.taps * m.depth * kPanel / 16 : 0;
    const int64_t lines = (all + tiles * steps - 1) / (tiles * steps);
    for (int64_t i = 0; i < tiles; ++i) {
        const int64_t row = i * m.rows / tiles;
        tile_of<kTile>(m, row, (i + 1) * m.rows / tiles - row, narrow,
                       m.next ? m.next + i * steps * lines * 16 : nullptr, lines);
    }
}

void multiply(const Multiply& m) {
    // Pieces of one tap, or of several whole ones.
    const int64_t taps = m.depth < kLongestSum ? kLongestSum / m.depth : 1;
    const int64_t parts = (m.depth + kLongestSum - 1) / kLongestSum;
    for (int64_t t = 0; t < m.taps; t += taps) {
        for (int64_t i = 0; i < parts; ++i) {
            const int64_t k = i * m.depth / parts, offset = (t * m.depth + k) * kPanel;
            const bool first = t == 0 && i == 0, last = t + taps >= m.taps && i + 1 == parts;
            Multiply piece = m;
            piece.taps = t + taps < m.taps ? taps : m.taps - t;
            piece.depth = (i + 1) * m.depth / parts - k;
            piece.a += t * m.a_stride;
            piece.a_offset += k;
            piece.b += offset;
            if (m.next) piece.next += offset;
            if (!first) piece.bias = nullptr;
            if (!last) {
                piece.residual = nullptr;
                piece.low = -__builtin_inff();
                piece.high = __builtin_inff();
            }
            multiply_piece(piece);
        }
    }
}

// -- Winograd --------------------------------------------------------------------------------------------

constexpr double kRootHalf = 0.70710678118654752440, kRootTwo = 1.41421356237309504880;

// A pair is its positive point; the negative one follows. Several times more exact than 0, 1, -1, 2, -2.
struct PointSet {
    bool zero;
    int pairs;
    bool infinity;
    double positive[4];
};

constexpr PointSet point_set(int kind) {
    switch (kind) {
        case kF2x3: return {false, 2, false, {kRootHalf, kRootTwo}};
        case kF3x3: return {false, 2, true, {kRootHalf, kRootTwo}};
        case kF4x3:
        case kF2x5: return {true, 2, true, {kRootHalf, kRootTwo}};
        case kF2x7: return {false, 4, false, {0.4, 0.8, 1.25, 2.5}};
        case kF3x7: return {false, 4, true, {0.4, 0.8, 1.25, 2.5}};
        case kS2x3: return {false, 1, true, {1}};
        case kS3x3: return {true, 1, true, {1}};
        default: return {true, 0, false, {}};
    }
}

// Row p of Bt: the polynomial that is 1 at point p and 0 at the others (the product of all at infinity).
struct InputTable {
    float row[kMaxPoints][kMaxPoints];
};

template <int KIND>
constexpr InputTable input_table() {
    constexpr PointSet set = point_set(KIND);
    constexpr int n = kAxisShapes[KIND].shared;
    double points[kMaxPoints] = {};
    int finite = 0;
    if (set.zero) points[finite++] = 0;
    for (int i = 0; i < set.pairs; ++i) {
        points[finite++] = set.positive[i];
        points[finite++] = -set.positive[i];
    }
    InputTable table{};
    for (int p = 0; p < n; ++p) {
        double c[kMaxPoints + 1] = {1};
        double scale = 1;
        int degree = 0;
        for (int q = 0; q < finite; ++q) {
            if (q == p) continue;
            for (int j = ++degree; j >= 0; --j) c[j] = (j ? c[j - 1] : 0) - points[q] * c[j];
            if (p < finite) scale *= points[p] - points[q];
        }
        for (int j = 0; j < n; ++j) {
            const double x = c[j] / scale;
            table.row[p][j] = x < 1e-12 && x > -1e-12 ? 0.0f : static_cast<float>(x);
        }
    }
    return table;
}

template <int KIND>
struct Axis {
    static constexpr int kOutputs = kAxisShapes[KIND].outputs;
    static constexpr int kPoints = kAxisShapes[KIND].points;
    static constexpr int kOwn = kAxisShapes[KIND].shared;  // points that interpolate
    static constexpr PointSet kSet = point_set(KIND);
    static constexpr InputTable kTable = input_table<KIND>();

    static constexpr float power(double x, int n) {
        double y = 1;
        for (int i = 0; i < n; ++i) y *= x;
        return static_cast<float>(y);
    }

    // sum of row[p][j] * d[j] over j = first, first + step, ...
    template <int P, int FIRST, int STEP>
    static Lanes dot(const Lanes (&d)[kOwn]) {
        Lanes sum{};
        bool started = false;
        UNROLL for (int j = FIRST; j < kOwn; j += STEP) {
            if (kTable.row[P][j] == 0.0f) continue;
            const Lanes term = d[j] * kTable.row[P][j];
            sum = started ? sum + term : term;
            started = true;
        }
        return sum;
    }

    template <int I>
    static void pairs_in(const Lanes (&d)[kOwn], Lanes (&v)[kPoints]) {
        if constexpr (I < kSet.pairs) {
            constexpr int p = kSet.zero + 2 * I;
            // The other points are symmetric, so the pair's rows differ by the sign of the odd terms.
            const Lanes even = dot<p, 0, 2>(d), odd = dot<p, 1, 2>(d);
            v[p] = even + odd;
            // The polynomial of -p mirrors that of p.
            v[p + 1] = even - odd;
            pairs_in<I + 1>(d, v);
        }
    }

    static void interpolate(const Lanes (&d)[kOwn], Lanes (&v)[kPoints]) {
        if constexpr (kSet.zero) v[0] = dot<0, 0, 1>(d);
        pairs_in<0>(d, v);
        if constexpr (kSet.infinity) v[kOwn - 1] = dot<kOwn - 1, 0, 1>(d);
    }

    static void input(const Lanes (&d)[kPoints], Lanes (&v)[kPoints]) {
        if constexpr (kPoints == 1) {
            v[0] = d[0];
        } else if constexpr (kOwn == kPoints) {
            interpolate(d, v);
        } else {
            Lanes even[kOwn];
            UNROLL for (int i = 0; i < kOwn; ++i) even[i] = d[2 * i];
            interpolate(even, v);
            UNROLL for (int i = kOwn; i < kPoints; ++i) v[i] = d[2 * (i - kOwn) + 1];
        }
    }

    // y[k] = sum of point^k * m, infinity only in the last.
    static void output(const Lanes (&m)[kPoints], Lanes (&y)[kOutputs]) {
        if constexpr (kPoints == 1) {
            y[0] = m[0];
        } else {
            Lanes sum[kSet.pairs], difference[kSet.pairs];
            UNROLL for (int i = 0; i < kSet.pairs; ++i) {
                sum[i] = m[kSet.zero + 2 * i] + m[kSet.zero + 2 * i + 1];
                difference[i] = m[kSet.zero + 2 * i] - m[kSet.zero + 2 * i + 1];
            }
            UNROLL for (int k = 0; k < kOutputs; ++k) {
                Lanes total = k % 2 ? difference[0] * power(kSet.positive[0], k)
                              : k   ? sum[0] * power(kSet.positive[0], k)
                                    : sum[0];
                UNROLL for (int i = 1; i < kSet.pairs; ++i) {
                    const Lanes& part = k % 2 ? difference[i] : sum[i];
                    total += k ? part * power(kSet.positive[i], k) : part;
                }
                if (k == 0 && kSet.zero) total += m[0];
                if (k == kOutputs - 1 && kSet.infinity) total += m[kOwn - 1];
                if constexpr (kOwn < kPoints) total += m[kOwn + k];
                y[k] = total;
            }
        }
    }
};

template <int KY, int KX>
void winograd_input(const WinogradInput& w) {
    using Y = Axis<KY>;
    using X = Axis<KX>;
    for (int64_t c = 0; c < w.channels; c += kLanes) {
        Lanes half[X::kPoints][Y::kPoints];
        UNROLL for (int i = 0; i < Y::kPoints; ++i) {
            Lanes d[X::kPoints], v[X::kPoints];
            UNROLL for (int j = 0; j < X::kPoints; ++j) d[j] = load(w.pixels[i * w.pixel_stride + j] + c);
            X::input(d, v);
            UNROLL for (int j = 0; j < X::kPoints; ++j) half[j][i] = v[j];
        }
        UNROLL for (int j = 0; j < X::kPoints; ++j) {
            Lanes v[Y::kPoints];
            Y::input(half[j], v);
            UNROLL for (int i = 0; i < Y::kPoints; ++i) store(w.out[i * X::kPoints + j] + c, v[i]);
        }
    }
}

template <int KY, int KX>
void winograd_output(const WinogradOutput& w) {
    using Y = Axis<KY>;
    using X = Axis<KX>;
    const Lanes low = splat(w.low), high = splat(w.high);
    for (int64_t c = 0; c < w.channels; c += kLanes) {
        Lanes half[Y::kOutputs][X::kPoints];
        UNROLL for (int j = 0; j < X::kPoints; ++j) {
            Lanes m[Y::kPoints], y[Y::kOutputs];
            UNROLL for (int i = 0; i < Y::kPoints; ++i) m[i] = load(w.in[i * X::kPoints + j] + c);
            Y::output(m, y);
            UNROLL for (int i = 0; i < Y::kOutputs; ++i) half[i][j] = y[i];
        }
        const Lanes bias = load(w.bias + c);
        UNROLL for (int i = 0; i < Y::kOutputs; ++i) {
            if (i >= w.rows) break;
            Lanes y[X::kOutputs];
            X::output(half[i], y);
            UNROLL for (int j = 0; j < X::kOutputs; ++j) {
                if (j >= w.columns) break;
                Lanes x = y[j] + bias;
                if (w.residual) x += load(w.residual[i * w.residual_stride + j] + c);
                store(w.out + i * w.out_stride + j * w.channels + c, clamp(x, low, high));
            }
        }
    }
}

// -- depthwise convolution and pooling -------------------------------------------------------------------

template <int R>
void depthwise_rows(const Depthwise& d, int64_t row) {
    const Lanes low = splat(d.low), high = splat(d.high);
    for (int64_t c = 0; c < d.channels; c += kLanes) {
        Lanes sum[R];
        const Lanes bias = load(d.bias + c);
        UNROLL for (int r = 0; r < R; ++r) sum[r] = bias;
        for (int64_t t = 0; t < d.taps; ++t) {
            const Lanes w = load(d.weight + t * d.channels + c);
            const float* const* pixels = d.pixels + t * d.stride + row;
            UNROLL for (int r = 0; r < R; ++r) sum[r] += load(pixels[r] + c) * w;
        }
        UNROLL for (int r = 0; r < R; ++r) {
            Lanes x = sum[r];
            if (d.residual) x += load(d.residual[row + r] + c);
            store(d.out[row + r] + c, clamp(x, low, high));
        }
    }
}

void depthwise(const Depthwise& d) {
    int64_t row = 0;
    for (; row + 4 <= d.rows; row += 4) depthwise_rows<4>(d, row);
    for (; row < d.rows; ++row) depthwise_rows<1>(d, row);
}

void pool(const Pooling& p) {
    for (int64_t row = 0; row < p.rows; ++row) {
        for (int64_t c = 0; c < p.channels; c += kLanes) {
            Lanes x = load(p.pixels[row] + c);
            if (p.scale) {
                for (int64_t t = 1; t < p.taps; ++t) x += load(p.pixels[t * p.stride + row] + c);
                x *= p.scale[row];
            } else {
                for (int64_t t = 1; t < p.taps; ++t) {
                    const Lanes y = load(p.pixels[t * p.stride + row] + c);
                    x = ((y > x) | (y != y)) ? y : x;
                }
            }
            store(p.out[row] + c, x);
        }
    }
}

// -- functions of single elements ------------------------------------------------------------------------

// e^x, or e^x - 1, by 2^n * e^r, |r| <= ln 2 / 2, e^r - 1 by its Taylor series to the seventh power: error
// below one unit in the last place.
template <bool MINUS_ONE = false>
inline Lanes exponential(Lanes x) {
    x = clamp(x, splat(-87.3f), splat(88.3f));  // where 2^n is a normal number
    const Lanes magic = splat(12582912.0f);  // adding it rounds to an integer
    const Lanes n = (x * 1.44269504f + magic) - magic;
    const Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    Lanes y = splat(1.0f / 5040);
    y = y * r + 1.0f / 720;
    y = y * r + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = (y * r + 1.0f) * r;
    const Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
    const Lanes power = (Lanes)exponent;  // a vector cast keeps the bits
    return y * power + (MINUS_ONE ? power - 1.0f : power);
}

inline Lanes sigmoid(Lanes x) { return 1.0f / (1.0f + exponential(-x)); }

inline Lanes magnitude(Lanes x) { return x < 0.0f ? -x : x; }

// tanh by its series near 0, where 1 - 2 / (1 + e^2x) would cancel.
inline Lanes hyperbolic_tangent(Lanes x) {
    const Lanes far = 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
    const Lanes s = x * x;
    Lanes near = splat(-0.00886323f);
    near = near * s + 0.02186949f;
    near = near * s + -0.05396825f;
    near = near * s + 0.13333333f;
    near = near * s + -0.33333333f;
    near = near * s * x + x;
    return magnitude(x) < 0.3f ? near : far;
}

// Coefficients by least squares at Chebyshev nodes: erf(x) / x in x^2 below 1, log(1 - erf(x)) in x up to 4.
constexpr float kErfNear[] = {1.1283791671f, -0.3761263859f, 0.1128378411f, -0.0268655174f,
                              0.0052212613f, -0.0008487265f, 0.0001128815f, -0.0000097283f};
constexpr float kErfFar[] = {5.533868792580613e-05f, -1.1289806893863408f,   -0.6343471423569353f,
                             -0.10726666318828361f,  0.02452049688819674f,   -0.003965013553036803f,
                             0.0003963336430421712f, -1.817330861079226e-05f};

inline Lanes polynomial(const float (&coefficients)[8], Lanes x) {
    Lanes y = splat(coefficients[7]);
    UNROLL for (int i = 6; i >= 0; --i) y = y * x + coefficients[i];
    return y;
}

inline Lanes error_function(Lanes x) {
    const Lanes t = clamp(magnitude(x), splat(0.0f), splat(4.0f));
    const Lanes y = t < 1.0f ? polynomial(kErfNear, t * t) * t : 1.0f - exponential(polynomial(kErfFar, t));
    return x < 0.0f ? -y : y;
}

template <int F>
inline Lanes apply(Lanes x, float parameter) {
    const Lanes zero = splat(0.0f);
    switch (F) {
        case kSigmoid: return sigmoid(x);
        case kSilu: return x * sigmoid(x);
        case kHardSigmoid: return clamp(x + 3.0f, zero, splat(6.0f)) * (1.0f / 6);
        case kHardSwish: return x * clamp(x + 3.0f, zero, splat(6.0f)) * (1.0f / 6);
        case kLeakyRelu: return x < zero ? x * parameter : x;
        case kElu: return x < zero ? parameter * exponential<true>(x) : x;
        case kTanh: return hyperbolic_tangent(x);
        case kGelu: return 0.5f * x * (1.0f + error_function(x * static_cast<float>(kRootHalf)));
        case kGeluTanh:
            return 0.5f * x * (1.0f + hyperbolic_tangent(0.79788456f * (x + 0.044715f * x * x * x)));
        default: return x;
    }
}

template <int F>
void activate_by(const Activate& a) {
    if (a.function == F) {
        for (int64_t i = 0; i < a.count; i += kLanes) store(a.x + i, apply<F>(load(a.x + i), a.parameter));
    } else if constexpr (F + 1 < kFunctions) {
        activate_by<F + 1>(a);
    }
}

void activate(const Activate& a) { activate_by<kSigmoid>(a); }

template <int OPERATION>  // one more than all: just a
void combine_rows(const Combine& o) {
    const Lanes low = splat(o.low), high = splat(o.high);
    for (int64_t row = 0; row < o.rows; ++row) {
        for (int64_t c = 0; c < o.channels; c += kLanes) {
            Lanes x = load(o.a[row] + c);
            if (OPERATION == kAdd) x += load(o.b[row] + c);
            if (OPERATION == kSubtract) x -= load(o.b[row] + c);
            if (OPERATION == kMultiply) x *= load(o.b[row] + c);
            if (o.scale) x = x * load(o.scale + c) + load(o.shift + c);
            store(o.out[row] + c, clamp(x, low, high));
        }
    }
}

void combine(const Combine& o) {
    if (!o.b) return combine_rows<kMultiply + 1>(o);
    switch (o.arithmetic) {
        case kAdd: return combine_rows<kAdd>(o);
        case kSubtract: return combine_rows<kSubtract>(o);
        case kMultiply: return combine_rows<kMultiply>(o);
    }
}

inline float total(Lanes x) {
    float sum = 0;
    UNROLL for (int i = 0; i < kLanes; ++i) sum += x[i];
    return sum;
}

void layer_norm(const LayerNorm& n) {
    for (int64_t row = 0; row < n.rows; ++row) {
        const float* in = n.in[row];
        float* out = n.out[row];
        const int64_t whole = n.channels / kLanes * kLanes;
        Lanes sums{};
        for (int64_t c = 0; c < whole; c += kLanes) sums += load(in + c);
        float sum = total(sums);
        for (int64_t c = whole; c < n.channels; ++c) sum += in[c];
        const float mean = sum / static_cast<float>(n.channels);
        Lanes squares{};
        for (int64_t c = 0; c < whole; c += kLanes) {
            const Lanes d = load(in + c) - mean;
            squares += d * d;
        }
        float square = total(squares);
        for (int64_t c = whole; c < n.channels; ++c) square += (in[c] - mean) * (in[c] - mean);
        const float scale = 1.0f / __builtin_sqrtf(square / static_cast<float>(n.channels) + n.epsilon);
        for (int64_t c = 0; c < n.channels; ++c) {
            const float x = (in[c] - mean) * scale;
            out[c] = x * (n.weight ? n.weight[c] : 1.0f) + (n.bias ? n.bias[c] : 0.0f);
        }
        for (int64_t c = n.channels; c < n.stored; ++c) out[c] = 0.0f;
    }
}

void flush_denormals() {
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    __asm__ volatile("msr fpcr, %0" : : "r"(state | (uint64_t{1} << 24)));
#endif
}

template <int Y, int X>
constexpr void put(Kernels& k) {
    k.winograd_input[Y][X] = winograd_input<Y, X>;
    k.winograd_output[Y][X] = winograd_output<Y, X>;
}

constexpr Kernels make() {
    Kernels k{};
#define KRYPTON_TEXT_OF(x) #x
#define KRYPTON_TEXT(x) KRYPTON_TEXT_OF(x)
    k.name = KRYPTON_TEXT(KRYPTON_ISA);
    k.panel = kPanel;
    k.tile = kTile;
    k.multiply = multiply;
    put<kF2x3, kF2x3>(k);
    put<kF2x3, kF3x3>(k);
    put<kF2x3, kF4x3>(k);
    put<kF3x3, kF2x3>(k);
    put<kF3x3, kF3x3>(k);
    put<kF3x3, kF4x3>(k);
    put<kF4x3, kF2x3>(k);
    put<kF4x3, kF3x3>(k);
    put<kF4x3, kF4x3>(k);
    put<kF2x5, kF2x5>(k);
    put<kS2x3, kS2x3>(k);
    put<kS2x3, kS3x3>(k);
    put<kS3x3, kS2x3>(k);
    put<kS3x3, kS3x3>(k);
    put<kF1x1, kF2x3>(k);
    put<kF1x1, kF3x3>(k);
    put<kF1x1, kF4x3>(k);
    put<kF1x1, kF2x5>(k);
    put<kF1x1, kF2x7>(k);
    put<kF1x1, kF3x7>(k);
    put<kF2x3, kF1x1>(k);
    put<kF3x3, kF1x1>(k);
    put<kF4x3, kF1x1>(k);
    put<kF2x5, kF1x1>(k);
    put<kF2x7, kF1x1>(k);
    put<kF3x7, kF1x1>(k);
    k.depthwise = depthwise;
    k.pool = pool;
    k.activate = activate;
    k.combine = combine;
    k.layer_norm = layer_norm;
    k.flush_denormals = flush_denormals;
    return k;
}

}  // namespace

extern const Kernels table;
constexpr Kernels kTable = make();
const Kernels table = kTable;

}  // namespace KRYPTON_ISA
}  // namespace krypton
