#include <algorithm>

#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

// An operator whose cells read an interval of its operand's.
class Neighbouring : public Operator {
  public:
    Neighbouring(IntervalMap y, IntervalMap x) : y_(std::move(y)), x_(std::move(x)) {}

    Box reach(const Box* changed) const override {
        if (changed[0].empty()) return {};
        const Box box{y_.changed(changed[0].y), x_.changed(changed[0].x)};
        return box.empty() ? Box{} : box;
    }

  protected:
    IntervalMap y_, x_;

    int64_t rows_read(const Box& box) const { return box.empty() ? 0 : y_.extent_read(box.y.size()); }
    int64_t columns_read(const Box& box) const { return box.empty() ? 0 : x_.extent_read(box.x.size()); }
    std::size_t pixel_bytes(const Box& box) const {
        return static_cast<std::size_t>(rows_read(box) * columns_read(box) * 8 + 4096);
    }
    const float** read(const Job& job, Scratch& scratch) const {
        const int64_t rows = rows_read(job.box), columns = columns_read(job.box);
        const float** pixels = scratch.take<const float*>(rows * columns);
        job.in[0].pixels(y_.first_read(job.box.y.lo), x_.first_read(job.box.x.lo), rows, columns,
                         outside_of(0.0f), pixels);
        return pixels;
    }
};

class Resample : public Neighbouring {
  public:
    Resample(IntervalMap y, IntervalMap x, std::vector<float> weights_y, std::vector<float> weights_x)
        : Neighbouring(std::move(y), std::move(x)),
          weights_y_(std::move(weights_y)),
          weights_x_(std::move(weights_x)) {}

    // Along rows first, then from row to row.
    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Box& box = jobs[i].box;
            const int64_t rows = rows_read(box), columns = columns_read(box), width = box.x.size();
            const float** in = read(jobs[i], scratch);
            float* between = scratch.take<float>(rows * width * stored);
            for (int64_t row = 0; row < rows; ++row)
                add_up(x_, weights_x_, box.x, stored, between + row * width * stored,
                       [&](int64_t at) { return in[row * columns + at]; });
            add_up(y_, weights_y_, box.y, width * stored, jobs[i].out,
                   [&](int64_t at) { return between + at * width * stored; });
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        return pixel_bytes(box) + static_cast<std::size_t>(rows_read(box) * box.x.size() * stored * 4);
    }

  private:
    std::vector<float> weights_y_, weights_x_;  // (outputs, taps)

    // Every output of `of`, `floats` each, from those of its taps: source(number within what is read).
    template <typename Source>
    void add_up(const IntervalMap& map, const std::vector<float>& weights, Interval of, int64_t floats,
                float* out, const Source& source) const {
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
    Interleave(int64_t height, int64_t width, int64_t rows, int64_t columns, int64_t by_channel,
               int64_t by_cell)
        : Neighbouring(larger(height, rows), larger(width, columns)),
          rows_(rows),
          columns_(columns),
          by_channel_(by_channel),
          by_cell_(by_cell) {}

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Box& box = jobs[i].box;
            const float** in = read(jobs[i], scratch);
            const int64_t columns = columns_read(box), top = box.y.lo / rows_, left = box.x.lo / columns_;
            float* out = jobs[i].out;
            for (int64_t y = box.y.lo; y < box.y.hi; ++y)
                for (int64_t x = box.x.lo; x < box.x.hi; ++x, out += stored) {
                    const float* from = in[(y / rows_ - top) * columns + x / columns_ - left] +
                                        (y % rows_ * columns_ + x % columns_) * by_cell_;
                    for (int64_t c = 0; c < channels; ++c) out[c] = from[c * by_channel_];
                    std::fill(out + channels, out + stored, 0.0f);
                }
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return pixel_bytes(box); }

  private:
    int64_t rows_, columns_, by_channel_, by_cell_;

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

std::unique_ptr<Operator> make_resample(IntervalMap y, IntervalMap x, std::vector<float> weights_y,
                                        std::vector<float> weights_x) {
    return std::make_unique<Resample>(std::move(y), std::move(x), std::move(weights_y), std::move(weights_x));
}

std::unique_ptr<Operator> make_interleave(int64_t height, int64_t width, int64_t rows, int64_t columns,
                                          int64_t by_channel, int64_t by_cell) {
    return std::make_unique<Interleave>(height, width, rows, columns, by_channel, by_cell);
}

}  // namespace krypton
