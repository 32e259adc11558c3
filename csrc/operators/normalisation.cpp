#include "operators/cellwise.h"
#include "operators/operators.h"

namespace krypton {

namespace {

class LayerNormOperator : public Cellwise {
  public:
    LayerNormOperator(int64_t channels, float epsilon, std::vector<float> weight, std::vector<float> bias)
        : channels_(channels), epsilon_(epsilon), weight_(std::move(weight)), bias_(std::move(bias)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            scratch.reset();
            const Job& job = jobs[i];
            const float** in = in_pixels(job, 0, scratch);
            kernels.layer_norm(
                {job.box.cells(), channels_, stored, epsilon_, weight_.empty() ? nullptr : weight_.data(),
                 bias_.empty() ? nullptr : bias_.data(), in, out_pixels(job, stored, scratch)});
        }
    }

  private:
    int64_t channels_;
    float epsilon_;
    std::vector<float> weight_, bias_;
};

}  // namespace

std::unique_ptr<Operator> make_layer_norm(int64_t channels, float epsilon, std::vector<float> weight,
                                          std::vector<float> bias) {
    return std::make_unique<LayerNormOperator>(channels, epsilon, std::move(weight), std::move(bias));
}

}  // namespace krypton
