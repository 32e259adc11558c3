#include <algorithm>

#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

// An operator whose cells read an interval of its operand's.
class Neighbouring : public Operator {
  public:
    explicit Neighbouring(ByAxis<IntervalMap> maps) : maps_(std::move(maps)) {}

    Box reach(const Box* changed) const override { return changed_by(maps_, changed[0]); }

  protected:
    ByAxis<IntervalMap> maps_;

    Sizes sizes_read(const Box& box) const {
        return box.empty() ? Sizes{} : extents_read(maps_, box.sizes());
    }
    std::size_t pixel_bytes(const Box& box) const {
        return static_cast<std::size_t>(cells_of(sizes_read(box)) * 8 + 4096);
    }
    const float** read(const Job& job, Scratch& scratch) const {
        const Sizes sizes = sizes_read(job.box);
        const float** pixels = scratch.take<const float*>(cells_of(sizes));
        job.in[0].pixels(first_read(maps_, job.box.first()), sizes, outside_of(0.0f), pixels);
        return pixels;
    }
};

class Resample : public Neighbouring {
  public:
    Resample(ByAxis<IntervalMap> maps, ByAxis<std::vector<float>> weights)
        : Neighbouring(std::move(maps)), weights_(std::move(weights)) {}

    // Along rows first, then from row to row, then in depth.
    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Box& box = jobs[i].box;
            const Sizes made = box.sizes(), from = sizes_read(box);
            const float** in = read(jobs[i], scratch);
            const int64_t line = made[kX] * stored, slice = made[kY] * line;
            float* lines = scratch.take<float>(from[kZ] * from[kY] * line);
            for (int64_t row = 0; row < from[kZ] * from[kY]; ++row)
                add_up(kX, box, stored, lines + row * line,
                       [&](int64_t at) { return in[row * from[kX] + at]; });
            const bool deep = !weights_[kZ].empty();
            float* slices = deep ? scratch.take<float>(from[kZ] * slice) : jobs[i].out;
            for (int64_t z = 0; z < from[kZ]; ++z)
                add_up(kY, box, line, slices + z * slice,
                       [&](int64_t at) { return lines + (z * from[kY] + at) * line; });
            if (deep) add_up(kZ, box, slice, jobs[i].out, [&](int64_t at) { return slices + at * slice; });
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        const Sizes from = sizes_read(box);
        const int64_t lines = from[kZ] * (from[kY] + box[kY].size());
        return pixel_bytes(box) + static_cast<std::size_t>(lines * box[kX].size() * stored * 4);
    }

  private:
    ByAxis<std::vector<float>> weights_;  // (outputs, taps)

    // Every output of a box along an axis, `floats` each, from those of its taps: source(number within what
    // is read).
    template <typename Source>
    void add_up(Axis axis, const Box& box, int64_t floats, float* out, const Source& source) const {
        const IntervalMap& map = maps_[axis];
        const std::vector<float>& weights = weights_[axis];
        const Interval of = box[axis];
        const int64_t taps = weights.empty() ? 1 : static_cast<int64_t>(weights.size() / map.read.size());
        for (int64_t o = of.lo; o < of.hi; ++o, out += floats) {
            const int64_t first = map.first_read(o) - map.first_read(of.lo);
            if (weights.empty()) {
                std::copy_n(source(first), floats, out);
                continue;
            }
            std::fill_n(out, floats, 0.0f);
            for (int64_t t = 0; t < taps; ++t) {
                const float weight = weights[o * taps + t];
                if (weight == 0) continue;
                const float* from = source(first + t);
                for (int64_t c = 0; c < floats; ++c) out[c] += weight * from[c];
            }
        }
    }
};

class Interleave : public Neighbouring {
  public:
    Interleave(const Sizes& sizes, const Sizes& cells, int64_t by_channel, int64_t by_cell)
        : Neighbouring(
              {larger(sizes[kZ], cells[kZ]), larger(sizes[kY], cells[kY]), larger(sizes[kX], cells[kX])}),
          cells_(cells),
          by_channel_(by_channel),
          by_cell_(by_cell) {}

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        const auto [deep, down, across] = cells_;
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Box& box = jobs[i].box;
            const float** in = read(jobs[i], scratch);
            const Sizes from = sizes_read(box);
            const Corner first = first_read(maps_, box.first());
            float* out = jobs[i].out;
            for (int64_t z = box[kZ].lo; z < box[kZ].hi; ++z)
                for (int64_t y = box[kY].lo; y < box[kY].hi; ++y) {
                    const float** row =
                        in + ((z / deep - first[kZ]) * from[kY] + y / down - first[kY]) * from[kX];
                    for (int64_t x = box[kX].lo; x < box[kX].hi; ++x, out += stored) {
                        const int64_t cell = (z % deep * down + y % down) * across + x % across;
                        const float* pixel = row[x / across - first[kX]] + cell * by_cell_;
                        for (int64_t c = 0; c < channels; ++c) out[c] = pixel[c * by_channel_];
                        std::fill(out + channels, out + stored, 0.0f);
                    }
                }
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return pixel_bytes(box); }

  private:
    Sizes cells_;
    int64_t by_channel_, by_cell_;

    // Each of n cells becomes `factor`.
    static IntervalMap larger(int64_t n, int64_t factor) {
        IntervalMap map;
        for (int64_t cell = 0; cell < n; ++cell) {
            map.first.push_back(cell * factor);
            map.end.push_back((cell + 1) * factor);
        }
        for (int64_t output = 0; output < n * factor; ++output) {
            map.read.push_back(output / factor);
            map.extents.push_back((output + factor - 1) / factor + 1);
        }
        return map;
    }
};

}  // namespace

std::unique_ptr<Operator> make_resample(ByAxis<IntervalMap> maps, ByAxis<std::vector<float>> weights) {
    return std::make_unique<Resample>(std::move(maps), std::move(weights));
}

std::unique_ptr<Operator> make_interleave(const Sizes& sizes, const Sizes& cells, int64_t by_channel,
                                          int64_t by_cell) {
    return std::make_unique<Interleave>(sizes, cells, by_channel, by_cell);
}

}  // namespace krypton
