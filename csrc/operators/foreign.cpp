#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

class Foreign : public Operator {
  public:
    Foreign(IntervalMap y, IntervalMap x, std::vector<int64_t> channels, Elsewhere compute, std::size_t bytes)
        : y_(std::move(y)),
          x_(std::move(x)),
          channels_(std::move(channels)),
          compute_(std::move(compute)),
          bytes_(bytes) {}

    Box reach(const Box* changed) const override {
        const Box all = Operator::reach(changed);
        if (all.empty()) return {};
        const Box box{y_.changed(all.y), x_.changed(all.x)};
        return box.empty() ? Box{} : box;
    }

    bool reads_context(int) const override {
        return operands.size() > 1 || !y_.own_cells() || !x_.own_cells();
    }

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t first = 0, last; first < count; first = last) {
            const Box& box = jobs[first].box;
            for (last = first + 1; last < count; ++last)
                if (jobs[last].box.y.size() != box.y.size() || jobs[last].box.x.size() != box.x.size()) break;
            scratch.reset();
            run_alike(jobs + first, last - first, scratch);
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t count) const override {
        const Extents extents = extents_of(box);
        const int64_t read = extents.read_height * extents.read_width;
        int64_t floats = box.cells() * channels;
        for (int64_t n : channels_) floats += read * n;
        return static_cast<std::size_t>(count * (floats * 4 + 16) + read * 8) + 4096;
    }
    std::size_t bytes_elsewhere(const Box& box, int64_t count) const override {
        return static_cast<std::size_t>(box.cells() * count) * bytes_;
    }

  private:
    IntervalMap y_, x_;
    std::vector<int64_t> channels_;  // by operand
    Elsewhere compute_;
    std::size_t bytes_;

    Extents extents_of(const Box& box) const {
        const int64_t height = box.y.size(), width = box.x.size();
        if (box.empty()) return {height, width, 0, 0};
        return {height, width, y_.extent_read(height), x_.extent_read(width)};
    }

    // Boxes of one size.
    void run_alike(const Job* jobs, int64_t count, Scratch& scratch) const {
        const Extents extents = extents_of(jobs->box);
        const int64_t read = extents.read_height * extents.read_width, cells = jobs->box.cells();
        const float** pixels = scratch.take<const float*>(read);
        const float** in = scratch.take<const float*>(static_cast<int64_t>(channels_.size()));
        int64_t* corners = scratch.take<int64_t>(2 * count);
        for (int64_t i = 0; i < count; ++i) {
            corners[2 * i] = jobs[i].box.y.lo;
            corners[2 * i + 1] = jobs[i].box.x.lo;
        }
        for (std::size_t k = 0; k < channels_.size(); ++k) {
            float* to = scratch.take<float>(count * read * channels_[k]);
            in[k] = to;
            for (const Job* job = jobs; job < jobs + count; ++job) {
                job->in[k].pixels(y_.first_read(job->box.y.lo), x_.first_read(job->box.x.lo),
                                  extents.read_height, extents.read_width, outside_of(0.0f), pixels);
                for (int64_t i = 0; i < read; ++i) to = std::copy_n(pixels[i], channels_[k], to);
            }
        }
        float* out = scratch.take<float>(count * cells * channels);
        compute_(count, extents, corners, in, out);
        for (const Job* job = jobs; job < jobs + count; ++job)
            for (float* to = job->out; to < job->out + cells * stored; to += stored, out += channels) {
                std::copy_n(out, channels, to);
                std::fill(to + channels, to + stored, 0.0f);
            }
    }
};

}  // namespace

std::unique_ptr<Operator> make_foreign(IntervalMap y, IntervalMap x, std::vector<int64_t> channels,
                                       Elsewhere compute, std::size_t bytes) {
    return std::make_unique<Foreign>(std::move(y), std::move(x), std::move(channels), std::move(compute),
                                     bytes);
}

}  // namespace krypton
