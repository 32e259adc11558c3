#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

class Pool : public Window {
  public:
    Pool(const WindowMap& y, const WindowMap& x, bool maximum, std::vector<float> divisor_y,
         std::vector<float> divisor_x)
        : Window(y, x),
          maximum_(maximum),
          divisor_y_(std::move(divisor_y)),
          divisor_x_(std::move(divisor_x)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        float scale[kBlock];
        for_blocks(jobs, count, scratch, maximum_ ? -kNoLimit : 0.0f, [&](const Block& block) {
            if (!maximum_)
                for (int64_t r = 0; r < block.rows; ++r)
                    scale[r] = 1.0f / (divisor_y_[block.y[r]] * divisor_x_[block.x[r]]);
            kernels.pool(
                {block.rows, taps(), stored, block.a, kBlock, maximum_ ? nullptr : scale, block.out});
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return block_bytes(box); }

  private:
    bool maximum_;
    std::vector<float> divisor_y_, divisor_x_;
};

}  // namespace

std::unique_ptr<Operator> make_pool(const WindowMap& y, const WindowMap& x, bool maximum,
                                    std::vector<float> divisor_y, std::vector<float> divisor_x) {
    return std::make_unique<Pool>(y, x, maximum, std::move(divisor_y), std::move(divisor_x));
}

}  // namespace krypton
