// What slides a kernel over its operand: convolutions and pools.
#pragma once

#include <algorithm>

#include "operator.h"

namespace krypton {

constexpr int64_t kBlock = 96;  // rows of pixels that are computed together: their operands stay in L2

// A pixel of `value` (0 or the lowest) in every channel, for what lies in padding.
const float* outside_of(float value);

// An operator that slides a kernel over its first operand.
class Window : public Operator {
  public:
    Window(const WindowMap& y, const WindowMap& x) : y_(y), x_(x) {}

    Box reach(const Box* changed) const override {
        Box all;
        if (!changed[0].empty()) all = {y_.changed(changed[0].y), x_.changed(changed[0].x)};
        if (all.empty()) all = Box{};
        for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
        return all;
    }

    bool reads_context(int operand) const override {
        // A residual is added over the whole box, which may be larger than its own.
        return operand > 0 || y_.kernel > 1 || x_.kernel > 1 || operands.size() > 1;
    }

  protected:
    WindowMap y_, x_;

    int64_t taps() const { return y_.kernel * x_.kernel; }

    // Rows of pixels of all jobs in blocks: visit(rows, a, out, residual, places).
    struct Block {
        int64_t rows;
        const float** a;         // (taps, kBlock)
        float** out;             // (kBlock)
        const float** residual;  // (kBlock), or null
        int64_t* y;              // (kBlock)
        int64_t* x;
    };

    std::size_t block_bytes(const Box& box) const {
        const int64_t grid = y_.extent_read(box.y.size()) * x_.extent_read(box.x.size());
        return static_cast<std::size_t>(grid + box.cells() + (taps() + 4) * kBlock + 64) * 8 + 4096;
    }

    template <typename Visit>
    void for_blocks(const Job* jobs, int64_t count, Scratch& scratch, float fill, const Visit& visit) const {
        int64_t largest = 0, cells = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Box& box = jobs[i].box;
            largest = std::max(largest, y_.extent_read(box.y.size()) * x_.extent_read(box.x.size()));
            cells = std::max(cells, box.cells());
        }
        const float** grid = scratch.take<const float*>(largest);
        const float** residuals = operands.size() > 1 ? scratch.take<const float*>(cells) : nullptr;
        Block block{0,
                    scratch.take<const float*>(taps() * kBlock),
                    scratch.take<float*>(kBlock),
                    residuals ? scratch.take<const float*>(kBlock) : nullptr,
                    scratch.take<int64_t>(kBlock),
                    scratch.take<int64_t>(kBlock)};
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const int64_t rows = y_.extent_read(job.box.y.size()), columns = x_.extent_read(job.box.x.size());
            job.in[0].pixels(y_.first_read(job.box.y.lo), x_.first_read(job.box.x.lo), rows, columns,
                             outside_of(fill), grid);
            if (residuals)
                job.in[1].pixels(job.box.y.lo, job.box.x.lo, job.box.y.size(), job.box.x.size(), nullptr,
                                 residuals);
            float* out = job.out;
            const int64_t width = job.box.x.size();
            for (int64_t oy = 0; oy < job.box.y.size(); ++oy) {
                for (int64_t ox = 0; ox < width;) {
                    const int64_t n = std::min(width - ox, kBlock - block.rows), r = block.rows;
                    const float** a = block.a + r;
                    for (int64_t ky = 0; ky < y_.kernel; ++ky) {
                        const float** line = grid + (oy * y_.stride + ky * y_.dilation) * columns;
                        for (int64_t kx = 0; kx < x_.kernel; ++kx, a += kBlock) {
                            const float** from = line + ox * x_.stride + kx * x_.dilation;
                            for (int64_t j = 0; j < n; ++j) a[j] = from[j * x_.stride];
                        }
                    }
                    for (int64_t j = 0; j < n; ++j, out += stored) {
                        block.out[r + j] = out;
                        block.y[r + j] = job.box.y.lo + oy;
                        block.x[r + j] = job.box.x.lo + ox + j;
                        if (residuals) block.residual[r + j] = residuals[oy * width + ox + j];
                    }
                    ox += n;
                    block.rows += n;
                    if (block.rows == kBlock) {
                        visit(block);
                        block.rows = 0;
                    }
                }
            }
        }
        if (block.rows) visit(block);
    }
};

}  // namespace krypton
