#include <algorithm>

#include "operators/operators.h"

namespace krypton {

namespace {

class Reindex : public Operator {
  public:
    Reindex(ByAxis<IndexMap> maps, float fill) : maps_(std::move(maps)), fill_(fill) {}

    Box reach(const Box* changed) const override { return changed_by(maps_, changed[0]); }

    void run(const Kernels&, const Job* jobs, int64_t count, Scratch&) const override {
        for (int64_t i = 0; i < count; ++i) {
            const Job& job = jobs[i];
            const Box& box = job.box;
            float* out = job.out;
            for (int64_t z = box[kZ].lo; z < box[kZ].hi; ++z)
                for (int64_t y = box[kY].lo; y < box[kY].hi; ++y)
                    for (int64_t x = box[kX].lo; x < box[kX].hi; ++x, out += stored) {
                        const Corner from{maps_[kZ].source[z], maps_[kY].source[y], maps_[kX].source[x]};
                        if (from[kZ] < 0 || from[kY] < 0 || from[kX] < 0)
                            std::fill_n(out, stored, fill_);
                        else
                            std::copy_n(job.in[0].pixel(from), stored, out);
                    }
        }
    }

    std::size_t scratch_bytes(const Box&, int64_t) const override { return 0; }

  private:
    ByAxis<IndexMap> maps_;
    float fill_;
};

}  // namespace

std::unique_ptr<Operator> make_reindex(ByAxis<IndexMap> maps, float fill) {
    return std::make_unique<Reindex>(std::move(maps), fill);
}

}  // namespace krypton
