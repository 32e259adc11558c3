#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class MeetingOperator : public Cellwise {
  public:
    MeetingOperator(Meeting meeting, std::vector<float> scale, std::vector<float> shift, bool adds_image)
        : meeting_(meeting), scale_(std::move(scale)), shift_(std::move(shift)), adds_image_(adds_image) {}

    Box reach(const Box* changed) const override { return changed[0]; }
    bool reads_context(int operand) const override { return operand == met(); }
    int met() const override { return 1; }

    std::size_t scratch_bytes(const Box& box, int64_t count) const override {
        return Cellwise::scratch_bytes(box, count) + static_cast<std::size_t>(2 * stored * 4);
    }

    // For one position, all that happens to a channel is one factor and one summand.
    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float** in = in_pixels(job, 0, scratch);
            const float* with = job.in[1].pixel();
            const int64_t first_summand = meeting_ == Meeting::kBoth ? stored : 0;
            float *factor = scratch.take<float>(stored), *summand = scratch.take<float>(stored);
            for (int64_t c = 0; c < stored; ++c) {
                factor[c] = meeting_ == Meeting::kSummand ? 1.0f : with[c];
                summand[c] = meeting_ == Meeting::kFactor ? 0.0f : with[first_summand + c];
                if (!scale_.empty()) {
                    factor[c] *= scale_[c];
                    summand[c] = summand[c] * scale_[c] + shift_[c];
                }
                if (adds_image_) factor[c] += 1.0f;
            }
            kernels.combine({kAdd, job.box.cells(), stored, in, nullptr, factor, summand,
                             out_pixels(job, stored, scratch), epilogue.low, epilogue.high});
        }
    }

    void sensitivities(const float* gradient, const float* pixel, float* out) const override {
        if (meeting_ != Meeting::kSummand)
            for (int64_t c = 0; c < stored; ++c) out[c] = gradient[c] * pixel[c];
        if (meeting_ != Meeting::kFactor)
            std::copy_n(gradient, stored, meeting_ == Meeting::kBoth ? out + stored : out);
    }

  private:
    Meeting meeting_;
    std::vector<float> scale_, shift_;
    bool adds_image_;
};

}  // namespace

std::unique_ptr<Operator> make_meeting(Meeting meeting, std::vector<float> scale, std::vector<float> shift,
                                       bool adds_image) {
    return std::make_unique<MeetingOperator>(meeting, std::move(scale), std::move(shift), adds_image);
}

}  // namespace krypton
