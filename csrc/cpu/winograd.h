// Winograd's transforms of tiles, generated from their interpolation points.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

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

void winograd_pair_input(const WinogradPair& w) {
    for (int64_t c = 0; c < w.channels; c += kLanes) {
        const Lanes a = load(w.in[0] + c), b = load(w.in[1] + c), d = load(w.in[2] + c),
                    e = load(w.in[3] + c);
        store(w.out[0] + c, a - d);
        store(w.out[1] + c, b + d);
        store(w.out[2] + c, d - b);
        store(w.out[3] + c, b - e);
    }
}

void winograd_pair_output(const WinogradPair& w) {
    for (int64_t c = 0; c < w.channels; c += kLanes) {
        const Lanes a = load(w.in[0] + c), b = load(w.in[1] + c), d = load(w.in[2] + c),
                    e = load(w.in[3] + c);
        store(w.out[0] + c, a + (b + d));
        store(w.out[1] + c, (b - d) - e);
    }
}

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
