#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class CombineOperator : public Cellwise {
  public:
    CombineOperator(Arithmetic arithmetic, std::vector<float> scale, std::vector<float> shift,
                    std::vector<float> slope)
        : arithmetic_(arithmetic),
          scale_(std::move(scale)),
          shift_(std::move(shift)),
          slope_(std::move(slope)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float** a = in_pixels(job, 0, scratch);
            const float** b = operands.size() > 1 ? in_pixels(job, 1, scratch) : nullptr;
            kernels.combine({arithmetic_, job.box.cells(), stored, a, b,
                             scale_.empty() ? nullptr : scale_.data(),
                             shift_.empty() ? nullptr : shift_.data(), out_pixels(job, stored, scratch),
                             epilogue.low, epilogue.high, slope_.empty() ? nullptr : slope_.data()});
            // 0 / 0 in what is stored beside the channels.
            if (arithmetic_ == kDivide && channels < stored)
                for (int64_t cell = 0; cell < job.box.cells(); ++cell)
                    std::fill(job.out + cell * stored + channels, job.out + (cell + 1) * stored, 0.0f);
        }
    }

  private:
    Arithmetic arithmetic_;
    std::vector<float> scale_, shift_, slope_;
};

}  // namespace

std::unique_ptr<Operator> make_combine(Arithmetic arithmetic, std::vector<float> scale,
                                       std::vector<float> shift, std::vector<float> slope) {
    return std::make_unique<CombineOperator>(arithmetic, std::move(scale), std::move(shift),
                                             std::move(slope));
}

}  // namespace krypton
