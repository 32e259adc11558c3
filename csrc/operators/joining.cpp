#include <cstring>

#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class Concat : public Cellwise {
  public:
    Concat(std::vector<Interval> channels, std::vector<float> scale, std::vector<float> shift)
        : channels_(std::move(channels)), scale_(std::move(scale)), shift_(std::move(shift)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            float** out = out_pixels(job, stored, scratch);
            int64_t offset = 0;
            const float** in = nullptr;
            for (std::size_t k = 0; k < operands.size(); ++k) {
                // A channel shuffle names one operand many times.
                if (k == 0 || operands[k] != operands[k - 1])
                    in = in_pixels(job, static_cast<int>(k), scratch);
                const int64_t from = channels_[k].lo, size = channels_[k].size();
                for (int64_t r = 0; r < job.box.cells(); ++r) {
                    if (size == 1) {
                        out[r][offset] = in[r][from];
                    } else {
                        std::memcpy(out[r] + offset, in[r] + from, size * sizeof(float));
                    }
                }
                offset += size;
            }
            if (offset < stored)
                for (int64_t r = 0; r < job.box.cells(); ++r)
                    std::fill(out[r] + offset, out[r] + stored, 0.0f);
            if (!scale_.empty() || epilogue.clamps())
                kernels.combine({kAdd, job.box.cells(), stored, out, nullptr,
                                 scale_.empty() ? nullptr : scale_.data(), shift_.data(), out, epilogue.low,
                                 epilogue.high});
        }
    }

  private:
    std::vector<Interval> channels_;
    std::vector<float> scale_, shift_;
};

}  // namespace

std::unique_ptr<Operator> make_concat(std::vector<Interval> channels, std::vector<float> scale,
                                      std::vector<float> shift) {
    return std::make_unique<Concat>(std::move(channels), std::move(scale), std::move(shift));
}

}  // namespace krypton
