#include "operators/operators.h"
#include "operators/sliding.h"

namespace krypton {

namespace {

class Pool : public Window {
  public:
    Pool(const ByAxis<WindowMap>& maps, bool maximum, ByAxis<std::vector<float>> divisors)
        : Window(maps), maximum_(maximum), divisors_(std::move(divisors)) {}

    void run(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const override {
        float scale[kBlock];
        for_blocks(jobs, count, scratch, maximum_ ? -kNoLimit : 0.0f, [&](const Block& block) {
            if (!maximum_)
                for (int64_t r = 0; r < block.rows; ++r) {
                    const Corner& cell = block.cells[r];
                    scale[r] =
                        1.0f / (divisors_[kZ][cell[kZ]] * divisors_[kY][cell[kY]] * divisors_[kX][cell[kX]]);
                }
            kernels.pool(
                {block.rows, taps(), stored, block.a, kBlock, maximum_ ? nullptr : scale, block.out});
        });
    }

    std::size_t scratch_bytes(const Box& box, int64_t) const override { return block_bytes(box); }

  private:
    bool maximum_;
    ByAxis<std::vector<float>> divisors_;
};

}  // namespace

std::unique_ptr<Operator> make_pool(const ByAxis<WindowMap>& maps, bool maximum,
                                    ByAxis<std::vector<float>> divisors) {
    return std::make_unique<Pool>(maps, maximum, std::move(divisors));
}

}  // namespace krypton
