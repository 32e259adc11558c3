#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class Foreign : public Cellwise {
  public:
    Foreign(std::vector<int64_t> channels, Elsewhere compute, std::size_t bytes)
        : channels_(std::move(channels)), compute_(std::move(compute)), bytes_(bytes) {}

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
        int64_t floats = channels;
        for (int64_t n : channels_) floats += n;
        return static_cast<std::size_t>(box.cells() * (count * floats * 4 + 8)) + 4096;
    }
    std::size_t bytes_elsewhere(const Box& box, int64_t count) const override {
        return static_cast<std::size_t>(box.cells() * count) * bytes_;
    }

  private:
    std::vector<int64_t> channels_;  // by operand
    Elsewhere compute_;
    std::size_t bytes_;

    // Boxes of one size.
    void run_alike(const Job* jobs, int64_t count, Scratch& scratch) const {
        const Box& box = jobs->box;
        const int64_t cells = box.cells();
        const float** pixels = scratch.take<const float*>(cells);
        const float** in = scratch.take<const float*>(static_cast<int64_t>(channels_.size()));
        for (std::size_t k = 0; k < channels_.size(); ++k) {
            float* to = scratch.take<float>(count * cells * channels_[k]);
            in[k] = to;
            for (const Job* job = jobs; job < jobs + count; ++job) {
                job->in[k].pixels(job->box.y.lo, job->box.x.lo, box.y.size(), box.x.size(), nullptr, pixels);
                for (int64_t i = 0; i < cells; ++i) to = std::copy_n(pixels[i], channels_[k], to);
            }
        }
        float* out = scratch.take<float>(count * cells * channels);
        compute_(count, box.y.size(), box.x.size(), in, out);
        for (const Job* job = jobs; job < jobs + count; ++job)
            for (float* to = job->out; to < job->out + cells * stored; to += stored, out += channels) {
                std::copy_n(out, channels, to);
                std::fill(to + channels, to + stored, 0.0f);
            }
    }
};

}  // namespace

std::unique_ptr<Operator> make_foreign(std::vector<int64_t> channels, Elsewhere compute, std::size_t bytes) {
    return std::make_unique<Foreign>(std::move(channels), std::move(compute), bytes);
}

}  // namespace krypton
