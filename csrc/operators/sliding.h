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
    explicit Window(const ByAxis<WindowMap>& maps) : maps_(maps) {}

    Box reach(const Box* changed) const override {
        Box all = changed_by(maps_, changed[0]);
        for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
        return all;
    }

    bool reads_context(int operand) const override {
        // A residual is added over the whole box, which may be larger than its own.
        return operand > 0 || taps() > 1 || operands.size() > 1;
    }

  protected:
    ByAxis<WindowMap> maps_;

    int64_t taps() const { return maps_[kZ].kernel * maps_[kY].kernel * maps_[kX].kernel; }

    // Rows of pixels of all jobs, to be computed together.
    struct Block {
        int64_t rows;
        const float** a;         // (taps, kBlock)
        float** out;             // (kBlock)
        const float** residual;  // (kBlock), or null
        Corner* cells;           // (kBlock)
    };

    std::size_t block_bytes(const Box& box) const {
        const int64_t grid = cells_of(extents_read(maps_, box.sizes()));
        return static_cast<std::size_t>(grid + box.cells() + (taps() + 5) * kBlock + 64) * 8 + 4096;
    }

    // visit(block)
    template <typename Visit>
    void for_blocks(const Job* jobs, int64_t count, Scratch& scratch, float fill, const Visit& visit) const {
        int64_t largest = 0, cells = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Box& box = jobs[i].box;
            largest = std::max(largest, cells_of(extents_read(maps_, box.sizes())));
            cells = std::max(cells, box.cells());
        }
        const float** grid = scratch.take<const float*>(largest);
        const float** residuals = operands.size() > 1 ? scratch.take<const float*>(cells) : nullptr;
        Block block{0, scratch.take<const float*>(taps() * kBlock), scratch.take<float*>(kBlock),
                    residuals ? scratch.take<const float*>(kBlock) : nullptr, scratch.take<Corner>(kBlock)};
        const WindowMap &mz = maps_[kZ], &my = maps_[kY], &mx = maps_[kX];
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const Corner first = job.box.first();
            const Sizes box = job.box.sizes(), read = extents_read(maps_, box);
            job.in[0].pixels(first_read(maps_, first), read, outside_of(fill), grid);
            if (residuals) job.in[1].pixels(job.box, nullptr, residuals);
            const float* const* residual = residuals;
            float* out = job.out;
            // Cells in one row of the box, side by side.
            const auto take = [&](int64_t oz, int64_t oy, int64_t ox, int64_t n) {
                const int64_t r = block.rows;
                const float** a = block.a + r;
                for (int64_t kz = 0; kz < mz.kernel; ++kz)
                    for (int64_t ky = 0; ky < my.kernel; ++ky) {
                        const int64_t plane = oz * mz.stride + kz * mz.dilation,
                                      line = oy * my.stride + ky * my.dilation;
                        const float** row = grid + (plane * read[kY] + line) * read[kX] + ox * mx.stride;
                        for (int64_t kx = 0; kx < mx.kernel; ++kx, a += kBlock) {
                            const float** from = row + kx * mx.dilation;
                            for (int64_t j = 0; j < n; ++j) a[j] = from[j * mx.stride];
                        }
                    }
                for (int64_t j = 0; j < n; ++j, out += stored) {
                    block.out[r + j] = out;
                    block.cells[r + j] = {first[kZ] + oz, first[kY] + oy, first[kX] + ox + j};
                    if (residual) block.residual[r + j] = *residual++;
                }
                block.rows += n;
                if (block.rows < kBlock) return;
                visit(block);
                block.rows = 0;
            };
            for (int64_t oz = 0; oz < box[kZ]; ++oz)
                for (int64_t oy = 0; oy < box[kY]; ++oy)
                    for (int64_t ox = 0; ox < box[kX];) {
                        const int64_t n = std::min(box[kX] - ox, kBlock - block.rows);
                        take(oz, oy, ox, n);
                        ox += n;
                    }
        }
        if (block.rows) visit(block);
    }
};

}  // namespace krypton
