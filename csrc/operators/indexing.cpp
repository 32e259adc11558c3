#include "operators/operators.h"

namespace krypton {

namespace {

class Reindex : public Operator {
  public:
    Reindex(IndexMap y, IndexMap x, float fill) : y_(std::move(y)), x_(std::move(x)), fill_(fill) {}

    Box reach(const Box* changed) const override {
        if (changed[0].empty()) return {};
        const Box box{y_.changed(changed[0].y), x_.changed(changed[0].x)};
        return box.empty() ? Box{} : box;
    }

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch& scratch) const override {
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            float* out = job.out;
            for (int64_t y = job.box.y.lo; y < job.box.y.hi; ++y) {
                for (int64_t x = job.box.x.lo; x < job.box.x.hi; ++x, out += stored) {
                    const int64_t sy = y_.source[y], sx = x_.source[x];
                    const float* pixel;
                    if (sy < 0 || sx < 0) {
                        std::fill_n(out, stored, fill_);
                        continue;
                    }
                    job.in[0].pixels(sy, sx, 1, 1, nullptr, &pixel);
                    std::copy_n(pixel, stored, out);
                }
            }
        }
        (void)scratch;
    }

    std::size_t scratch_bytes(const Box&, int64_t) const override { return 0; }

  private:
    IndexMap y_, x_;
    float fill_;
};

}  // namespace

std::unique_ptr<Operator> make_reindex(IndexMap y, IndexMap x, float fill) {
    return std::make_unique<Reindex>(std::move(y), std::move(x), fill);
}

}  // namespace krypton
