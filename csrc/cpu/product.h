// Rows of pixels times panels of weights: convolutions and linear layers.
// A part of kernels.cpp, and of no other file.
#pragma once

#include "cpu/lanes.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

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

}  // namespace
}  // namespace KRYPTON_ISA
}  // namespace krypton
