// What reads its operands at its own cells: arithmetic, concatenation, norms over channels.
#pragma once

#include "operator.h"

namespace krypton {

// An operator that reads its operands at its own cells.
class Cellwise : public Operator {
  public:
    std::size_t scratch_bytes(const Box& box, int64_t) const override {
        return static_cast<std::size_t>((operands.size() + 1) * (box.cells() * 8 + 64) + 4096);
    }
    bool reads_context(int) const override { return operands.size() > 1; }

  protected:
    static float** out_pixels(const Job& job, int64_t stored, Scratch& scratch) {
        float** out = scratch.take<float*>(job.box.cells());
        for (int64_t i = 0; i < job.box.cells(); ++i) out[i] = job.out + i * stored;
        return out;
    }
    static const float** in_pixels(const Job& job, int operand, Scratch& scratch) {
        const float** in = scratch.take<const float*>(job.box.cells());
        job.in[operand].pixels(job.box, nullptr, in);
        return in;
    }
};

}  // namespace krypton
