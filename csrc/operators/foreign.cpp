#include <algorithm>

#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

class Foreign : public Operator {
  public:
    Foreign(ByAxis<IntervalMap> maps, std::vector<int64_t> channels, Elsewhere compute, std::size_t bytes)
        : maps_(std::move(maps)),
          channels_(std::move(channels)),
          compute_(std::move(compute)),
          bytes_(bytes) {}

    Box reach(const Box* changed) const override { return changed_by(maps_, Operator::reach(changed)); }

    bool reads_context(int) const override {
        return operands.size() > 1 ||
               !std::ranges::all_of(maps_, [](const IntervalMap& map) { return map.own_cells(); });
    }

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t first = 0, last; first < count; first = last) {
            const Sizes sizes = jobs[first].box.sizes();
            for (last = first + 1; last < count && jobs[last].box.sizes() == sizes;) ++last;
            scratch.reset();
            run_alike(jobs + first, last - first, scratch);
        }
    }

    std::size_t scratch_bytes(const Box& box, int64_t count) const override {
        const Extents extents = extents_of(box);
        const int64_t read = cells_of(extents.read);
        int64_t floats = box.cells() * channels;
        for (int64_t n : channels_) floats += read * n;
        return static_cast<std::size_t>(count * (floats * 4 + 24) + read * 8) + 4096;
    }
    std::size_t bytes_elsewhere(const Box& box, int64_t count) const override {
        return static_cast<std::size_t>(box.cells() * count) * bytes_;
    }

  private:
    ByAxis<IntervalMap> maps_;
    std::vector<int64_t> channels_;  // by operand
    Elsewhere compute_;
    std::size_t bytes_;

    Extents extents_of(const Box& box) const {
        return {box.sizes(), box.empty() ? Sizes{} : extents_read(maps_, box.sizes())};
    }

    // Boxes of one size.
    void run_alike(const Job* jobs, int64_t count, Scratch& scratch) const {
        const Extents extents = extents_of(jobs->box);
        const int64_t read = cells_of(extents.read), cells = jobs->box.cells();
        const float** pixels = scratch.take<const float*>(read);
        const float** in = scratch.take<const float*>(static_cast<int64_t>(channels_.size()));
        Corner* corners = scratch.take<Corner>(count);
        for (int64_t i = 0; i < count; ++i) corners[i] = jobs[i].box.first();
        for (std::size_t k = 0; k < channels_.size(); ++k) {
            float* to = scratch.take<float>(count * read * channels_[k]);
            in[k] = to;
            for (const Job* job = jobs; job < jobs + count; ++job) {
                job->in[k].pixels(first_read(maps_, job->box.first()), extents.read, outside_of(0.0f),
                                  pixels);
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

std::unique_ptr<Operator> make_foreign(ByAxis<IntervalMap> maps, std::vector<int64_t> channels,
                                       Elsewhere compute, std::size_t bytes) {
    return std::make_unique<Foreign>(std::move(maps), std::move(channels), std::move(compute), bytes);
}

}  // namespace krypton
