#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class MeetingOperator : public Cellwise {
  public:
    explicit MeetingOperator(Meeting meeting) : meeting_(meeting) {}

    Box reach(const Box* changed) const override { return changed[0]; }
    bool reads_context(int operand) const override { return operand == met(); }
    int met() const override { return 1; }

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const int64_t cells = job.box.cells();
            const float** in = in_pixels(job, 0, scratch);
            const float* with;
            job.in[1].pixels(0, 0, 1, 1, nullptr, &with);
            Combine combine{kAdd,         cells,        stored,  in,
                            nullptr,      nullptr,      nullptr, out_pixels(job, stored, scratch),
                            epilogue.low, epilogue.high};
            if (meeting_ == Meeting::kBoth) {
                combine.scale = with;
                combine.shift = with + stored;
            } else {
                const float** every = scratch.take<const float*>(cells);
                std::fill_n(every, cells, with);
                combine.b = every;
                combine.arithmetic = meeting_ == Meeting::kFactor ? kMultiply : kAdd;
            }
            kernels.combine(combine);
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
};

}  // namespace

std::unique_ptr<Operator> make_meeting(Meeting meeting) { return std::make_unique<MeetingOperator>(meeting); }

}  // namespace krypton
